/**
 * Faults at random under load: workers are killed, hang, are told to stop or drained, plans and deployments change, again and again. Every
 * answer must be the undisturbed one; requests may be refused while nothing serves, and none may fail.
 */
import { type HelsClient, HelsError } from '../../client/sdk/index.ts';
import { bundledModel, idle, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { atLeast, atMost, type Benchmark } from './benchmark.ts';
import { ask, type Question, questionsOf, randomNumbers } from './residency/schedules.ts';

/** HELS_CHAOS_SECONDS: how long faults go on. */
const seconds = Number(process.env['HELS_CHAOS_SECONDS'] ?? 180);
const seed = Number(process.env['HELS_CHAOS_SEED'] ?? 20_261_127);
const streams = 8;
const questionCount = 40;
const workers = 3;
const pauseMs = 100;
const allThereMs = 60_000;

const wait = (milliseconds: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

class Load {
  readonly #client: HelsClient;
  readonly #questions: readonly Question[];
  readonly #known: readonly string[];
  answers = 0;
  different = 0;
  refused = 0;
  readonly failures: string[] = [];
  #ending = false;
  #running: Promise<void>[] = [];

  constructor(client: HelsClient, questions: readonly Question[], known: readonly string[]) {
    this.#client = client;
    this.#questions = questions;
    this.#known = known;
  }

  begin(): void {
    this.#running = Array.from({ length: streams }, (_, stream) => this.#run(stream));
  }

  async end(): Promise<void> {
    this.#ending = true;
    await Promise.all(this.#running);
  }

  async #run(stream: number): Promise<void> {
    const random = randomNumbers(seed + stream);
    while (!this.#ending) {
      const which = random(this.#questions.length);
      try {
        const answer = await ask(this.#client, this.#questions[which] as Question);
        this.answers += 1;
        if (String(answer) !== this.#known[which]) this.different += 1;
      } catch (error) {
        // Refused before its first token: nothing serves for a moment.
        if (error instanceof HelsError && error.code === 'not-ready') this.refused += 1;
        else this.failures.push(String(error));
        await wait(pauseMs);
      }
    }
  }
}

/** The daemons as they are now. */
class Site {
  readonly #test: TestCluster;
  readonly #processIds: number[];

  constructor(test: TestCluster) {
    this.#test = test;
    this.#processIds = test.cluster.workers.map(({ processId }) => processId ?? 0);
  }

  signal(worker: number, name: NodeJS.Signals): void {
    process.kill(this.#processIds[worker] ?? 0, name);
  }

  async restart(worker: number): Promise<void> {
    this.#processIds[worker] = (await this.#test.restartWorker(worker)).processId ?? 0;
  }

  async allThere(): Promise<void> {
    await eventually(allThereMs, 'all workers are there, and the model is served', async () => {
      const { state, workers: known } = await this.#test.cluster.client.status();
      const alive = known.filter((one) => one.state === 'alive' && !one.drained);
      return state === 'ready' && alive.length === workers;
    });
  }

  async deploy(policy: 'equal' | 'hels'): Promise<void> {
    await this.#test.deploy({ policy, autoReplan: false, modelPath: bundledModel });
  }

  /** A split over all workers, by hand. */
  async replan(headGroups: number[]): Promise<void> {
    const ranks = headGroups.map((count, index) => ({
      ...{ workerId: `worker-${index}`, headGroups: count, ffnWeight: count },
    }));
    for await (const _ of this.#test.cluster.client.replan({ ranks })) void _;
  }

  async drain(worker: number): Promise<void> {
    const id = `worker-${worker}`;
    for await (const _ of this.#test.cluster.client.drain(id)) void _;
    await this.#test.cluster.client.undrain(id);
  }
}

type Fault = (site: Site, random: (below: number) => number) => Promise<void>;

const splits = [
  [4, 2, 2],
  [2, 3, 3],
  [3, 3, 2],
  [1, 1, 6],
];

const faults: Readonly<Record<string, Fault>> = {
  killed: async (site, random) => {
    const worker = random(workers);
    site.signal(worker, 'SIGKILL');
    await wait(random(3_000));
    await site.restart(worker);
  },
  'killed while plans change': async (site, random) => {
    const worker = random(workers);
    const changing = site.replan(splits[random(splits.length)] ?? []).catch(() => undefined);
    await wait(random(400));
    site.signal(worker, 'SIGKILL');
    await changing;
    await site.restart(worker);
  },
  hangs: async (site, random) => {
    const worker = random(workers);
    site.signal(worker, 'SIGSTOP');
    await wait(200 + random(8_000));
    site.signal(worker, 'SIGCONT');
  },
  'told to stop': async (site, random) => {
    const worker = random(workers);
    site.signal(worker, 'SIGTERM');
    await wait(1_000 + random(2_000));
    await site.restart(worker);
  },
  drained: (site, random) => site.drain(random(workers)),
  'another plan': (site, random) => site.replan(splits[random(splits.length)] ?? []),
  'deployed again': (site, random) => site.deploy(random(2) === 0 ? 'equal' : 'hels'),
};

async function play(test: TestCluster, log: (line: string) => void) {
  const { client } = test.cluster;
  const questions = questionsOf(questionCount, seed);
  const site = new Site(test);
  await site.deploy('equal');
  const known: string[] = [];
  for (const question of questions) known.push(String(await ask(client, question)));
  const load = new Load(client, questions, known);
  load.begin();
  const random = randomNumbers(seed);
  const names = Object.keys(faults);
  const counts = new Map(names.map((name) => [name, 0]));
  const startMs = performance.now();
  while (performance.now() - startMs < 1000 * seconds) {
    const name = names[random(names.length)] ?? '';
    log(`${((performance.now() - startMs) / 1000).toFixed(0)} s: ${name}`);
    await faults[name]?.(site, random);
    counts.set(name, (counts.get(name) ?? 0) + 1);
    await site.allThere();
    await wait(random(1_500));
    // Whoever was lost takes part again.
    await site.deploy('equal');
  }
  await load.end();
  await idle(client);
  const { kvBlocksUsed } = await client.status();
  const metrics = await (await fetch(`${test.cluster.httpUrl}/metrics`)).text();
  const resumed = Number(/^hels_requests_resumed_total (\d+)$/m.exec(metrics)?.[1] ?? 0);
  return { load, counts, kvBlocksUsed, resumed };
}

export const chaos: Benchmark = {
  name: 'chaos',
  summary:
    'faults at random under load: every answer must be the undisturbed one, and none may fail',
  onlyByName: true,
  async run(log) {
    const test = await startTestCluster(Array.from({ length: workers }, () => 'cpu?threads=1'));
    try {
      const { load, counts, kvBlocksUsed, resumed } = await play(test, log);
      const shown = [...new Set(load.failures)].slice(0, 5);
      return {
        tables: [
          {
            title: `faults in ${seconds} s, seed ${seed}`,
            rows: [...counts].map(([fault, count]) => ({ fault, count })),
          },
          {
            title: `${streams} streams`,
            rows: [{ answers: load.answers, 'taken over': resumed, refused: load.refused }],
          },
        ],
        goals: [
          atMost('answers that differ', load.different, 0),
          atMost('requests that failed', load.failures.length, 0),
          atMost('requests that were refused', load.refused, 0),
          atLeast('requests taken over by another epoch', resumed, streams),
          atMost('KV blocks in use when idle', kvBlocksUsed, 0),
        ],
        notes: [
          'taken over: a request that outlives several epochs counts each time; refused: asked while nothing served, and asked again',
          ...shown.map((failure) => `failed: ${failure}`),
        ],
      };
    } finally {
      await test.stop();
    }
  },
};
