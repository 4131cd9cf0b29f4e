/**
 * The controller plans anew by itself: streams run on two equal devices, one of them begins to throttle, and the plan follows. Every
 * answer must be the one of before, those in the middle of the change too.
 */

import { promptOf } from '../../client/helsctl/request-load.ts';
import type { Status } from '../../client/sdk/index.ts';
import { idle } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { atLeast, atMost, type Benchmark } from './benchmark.ts';
import { type BenchCluster, withCluster } from './cluster.ts';
import { randomModel, shape110M } from './random-model.ts';
import { ask, type Question } from './residency/schedules.ts';
import { median } from './statistics.ts';
import { Throttle } from './throttle.ts';

const streams = 4;
const outputTokens = 160;
const runShare = 0.3;
const periodMs = 10;
/** The rest after a deployment is two minutes, then a new plan must be better for half a minute (decision 12). */
const replanDeadlineMs = 300_000;

const questions: Question[] = Array.from({ length: 2 * streams }, (_, index) => ({
  promptTokenIds: promptOf(32 + 8 * index, 1 + index),
  maxTokens: outputTokens,
  temperature: index % 2 === 0 ? 0 : 0.8,
  seed: 500 + index,
  prefixCache: false,
}));

class Streams {
  readonly #cluster: BenchCluster;
  readonly #known: readonly string[];
  readonly answers: { endMs: number; seconds: number; different: boolean }[] = [];
  #ending = false;
  #running: Promise<void>[] = [];

  constructor(cluster: BenchCluster, known: readonly string[]) {
    this.#cluster = cluster;
    this.#known = known;
  }

  begin(): void {
    this.#running = Array.from({ length: streams }, (_, stream) => this.#run(stream));
    // Told by end(); until then a stream that failed must not end the process.
    for (const one of this.#running) one.catch(() => undefined);
  }

  /** Throws what an answer failed with. */
  async end(): Promise<void> {
    this.#ending = true;
    const ended = await Promise.allSettled(this.#running);
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
  }

  async #run(stream: number): Promise<void> {
    for (let index = stream; !this.#ending; index = (index + streams) % questions.length) {
      const startMs = performance.now();
      const answer = await ask(this.#cluster.cluster.client, questions[index] as Question);
      const endMs = performance.now();
      const seconds = (endMs - startMs) / 1000;
      this.answers.push({ endMs, seconds, different: String(answer) !== this.#known[index] });
    }
  }

  async during(milliseconds: number): Promise<number> {
    const startMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    return this.secondsOf(startMs, performance.now());
  }

  /** Median over the answers that ended then. */
  secondsOf(fromMs: number, toMs: number): number {
    const those = this.answers.filter(({ endMs }) => endMs >= fromMs && endMs < toMs);
    return median(those.map(({ seconds }) => seconds));
  }
}

const headGroupsOf = ({ ranks }: { ranks: { workerId: string; headGroups: unknown }[] }) =>
  ranks
    .map(({ workerId, headGroups }) => {
      const { begin, end } = headGroups as { begin: number; end: number };
      return `${workerId} ${end - begin}`;
    })
    .join(', ');

const replanOf = ({ lastReplan }: Status) => (lastReplan?.trigger === 'load' ? lastReplan : null);

/** Whether the controller planned anew because of the load; a plan that was gone back on counts, and says why. */
async function nextReplan(cluster: BenchCluster, log: (line: string) => void) {
  const startMs = performance.now();
  const replan = await eventually(replanDeadlineMs, 'a new plan', async () =>
    replanOf(await cluster.cluster.client.status()),
  );
  const seconds = (performance.now() - startMs) / 1000;
  log(`${replan.outcome} after ${seconds.toFixed(0)} s: ${replan.reason}`);
  return { replan, seconds };
}

async function play(cluster: BenchCluster, log: (line: string) => void) {
  const { client, processIds } = cluster.cluster;
  const report = await cluster.deploy({
    modelPath: await randomModel(shape110M),
    workersMin: 2,
    workload: { sequences: streams, contextTokens: 256 },
    prefixCache: false,
    autoReplan: true,
  });
  const before = headGroupsOf(report.plan ?? { ranks: [] });
  const slowing = report.plan?.ranks[1]?.workerId;
  if (slowing === undefined) throw new Error(`the plan has one rank only: ${before}`);
  const known: string[] = [];
  for (const question of questions) known.push(String(await ask(client, question)));
  const load = new Streams(cluster, known);
  load.begin();
  const undisturbed = await load.during(20_000);
  const throttle = new Throttle(processIds.get(slowing) ?? 0, runShare, periodMs);
  try {
    const throttledMs = performance.now();
    const { replan, seconds } = await nextReplan(cluster, log);
    const throttled = load.secondsOf(throttledMs + 10_000, performance.now());
    // The answers in the middle of the change end first.
    await load.during(2_000 * throttled);
    const replanned = await load.during(20_000);
    const { plan } = await client.plan();
    await load.end();
    await idle(client);
    const after = headGroupsOf(plan ?? { ranks: [] });
    return { load, replan, seconds, undisturbed, throttled, replanned, before, after };
  } finally {
    throttle.end();
  }
}

export const autoReplan: Benchmark = {
  name: 'auto-replan',
  summary: 'a device throttles while streams run: the controller plans anew by itself',
  onlyByName: true,
  async run(log) {
    const devices = [0, 1].map((core) => ({ device: 'cpu?threads=1', core }));
    const played = await withCluster(devices, null, (cluster) => play(cluster, log));
    const { load, replan, undisturbed, throttled, replanned, before, after } = played;
    const row = (when: string, split: string, seconds: number) => ({
      ...{ when, 'head groups': split, 'answer s': seconds },
      'of the undisturbed': seconds / undisturbed,
    });
    return {
      tables: [
        {
          title: `${streams} streams, answers of ${outputTokens} tokens, median time of an answer`,
          rows: [
            row('undisturbed', before, undisturbed),
            row(`one device throttled to ${runShare}`, before, throttled),
            row('planned anew', after, replanned),
          ],
        },
        {
          title: 'the re-plan',
          rows: [
            {
              ...{ outcome: replan.outcome, kv: replan.kv, 'after s': played.seconds },
              ...{ 'pause ms': 1000 * replan.pauseSeconds, sequences: replan.sequences },
              'predicted ms': 1000 * (replan.predicted?.seconds ?? 0),
              'predicted gain': replan.gain,
            },
          ],
        },
      ],
      goals: [
        atLeast('new plans that serve', replan.outcome === 'applied' ? 1 : 0, 1),
        atMost('answer of the new plan / of the old one', replanned / throttled, 0.85),
        atMost('answers that differ', load.answers.filter(({ different }) => different).length, 0),
      ],
      notes: [
        `${load.answers.length} answers, half greedy, half sampled; the device is throttled by stopping its process for ${1 - runShare} of every ${periodMs} ms`,
        'the controller rests for two minutes after a deployment, and a new plan must be better for half a minute',
      ],
    };
  },
};
