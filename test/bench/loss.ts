/**
 * A worker goes away under load: how long the streams wait for their next token, and that all of them go on with the tokens that were to
 * come.
 */
import { promptOf } from '../../client/helsctl/request-load.ts';
import type { HelsClient } from '../../client/sdk/index.ts';
import { bundledModel, idle, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { atMost, type Benchmark } from './benchmark.ts';
import { measureReadBandwidth } from './machine.ts';
import { randomModel, shape110M, shape1100M } from './random-model.ts';
import { median } from './statistics.ts';

const devices = ['cpu?threads=1', 'cpu?threads=1', 'cpu?threads=1'];
const streams = 8;
/** Of every stream, when the worker goes. */
const tokensBefore = 4;
const lostWorker = 1;

interface Case {
  name: string;
  model: () => Promise<string>;
  /** Long enough to outlast the notice. */
  outputTokens: number;
  signal: 'SIGKILL' | 'SIGSTOP';
  rounds: number;
}

const bundled = async () => bundledModel;
const cases: readonly Case[] = [
  { name: 'bundled, killed', model: bundled, outputTokens: 400, signal: 'SIGKILL', rounds: 5 },
  { name: 'bundled, hangs', model: bundled, outputTokens: 400, signal: 'SIGSTOP', rounds: 3 },
  ...(['SIGKILL', 'SIGSTOP'] as const).map((signal) => ({
    ...{ name: signal === 'SIGKILL' ? '110M, killed' : '110M, hangs', signal, rounds: 3 },
    ...{ model: () => randomModel(shape110M), outputTokens: 96 },
  })),
  {
    ...{ name: '1.1B, killed', model: () => randomModel(shape1100M) },
    ...{ outputTokens: 24, signal: 'SIGKILL', rounds: 3 },
  },
];

interface Stream {
  tokenIds: number[];
  /** When each came, in milliseconds. */
  atMs: number[];
}

async function stream(client: HelsClient, index: number, maxTokens: number, onToken: () => void) {
  const read: Stream = { tokenIds: [], atMs: [] };
  const sampling = index % 2 === 0 ? { temperature: 0 } : { temperature: 0.8, seed: 900 + index };
  const options = { maxTokens, ignoreEndOfText: true, prefixCache: false, ...sampling };
  const promptTokenIds = promptOf(24 + 8 * index, 1 + index);
  for await (const event of client.generate({ promptTokenIds }, options)) {
    if (event.type !== 'delta') continue;
    for (const tokenId of event.tokenIds) {
      read.tokenIds.push(tokenId);
      read.atMs.push(performance.now());
    }
    onToken();
  }
  return read;
}

/** All streams; `onTokens` once each has had `tokensBefore`. */
function load(client: HelsClient, maxTokens: number, onTokens: () => void): Promise<Stream[]> {
  const counts = new Array<number>(streams).fill(0);
  let told = false;
  const count = (index: number) => {
    counts[index] = (counts[index] ?? 0) + 1;
    if (told || counts.some((tokens) => tokens < tokensBefore)) return;
    told = true;
    onTokens();
  };
  return Promise.all(
    counts.map((_, index) => stream(client, index, maxTokens, () => count(index))),
  );
}

const answersOf = (read: readonly Stream[]) => read.map(({ tokenIds }) => tokenIds.join());

/** Seconds from `fromMs` until another epoch is begun, and until it serves. */
async function watch(client: HelsClient, epoch: number, fromMs: number) {
  const since = () => (performance.now() - fromMs) / 1000;
  await eventually(60_000, 'another epoch', async () => (await client.status()).epoch > epoch);
  const noticed = since();
  await eventually(60_000, 'it serves', async () => (await client.status()).state === 'ready');
  return { noticed, serving: since() };
}

interface Round {
  noticed: number;
  serving: number;
  /** Until every stream had its next token. */
  waited: number;
  different: number;
}

async function play(
  test: TestCluster,
  { outputTokens, signal }: Case,
  processId: number,
  known: string[],
): Promise<Round> {
  const { client } = test.cluster;
  const { epoch } = await client.status();
  let lostMs = 0;
  let watched: ReturnType<typeof watch> | null = null;
  const read = await load(client, outputTokens, () => {
    lostMs = performance.now();
    process.kill(processId, signal);
    watched = watch(client, epoch, lostMs);
  });
  if (watched === null) throw new Error('the answers were over before the worker went away');
  const { noticed, serving } = await (watched as ReturnType<typeof watch>);
  const nextMs = (atMs: readonly number[]) => atMs.find((at) => at > lostMs + 1000 * noticed);
  const waited = Math.max(...read.map(({ atMs }) => nextMs(atMs) ?? Number.NaN)) - lostMs;
  const different = answersOf(read).filter((answer, index) => answer !== known[index]).length;
  return { noticed, serving, waited: waited / 1000, different };
}

async function rounds(one: Case, modelPath: string, log: (line: string) => void) {
  const test = await startTestCluster(devices);
  const { client } = test.cluster;
  const all: Round[] = [];
  try {
    const deploy = () => test.deploy({ modelPath, policy: 'equal', autoReplan: false });
    await deploy();
    const known = answersOf(await load(client, one.outputTokens, () => undefined));
    let processId = test.cluster.workers[lostWorker]?.processId ?? 0;
    for (let round = 0; round < one.rounds; round += 1) {
      const result = await play(test, one, processId, known);
      log(`${one.name}: next tokens after ${result.waited.toFixed(2)} s`);
      all.push(result);
      if (one.signal === 'SIGSTOP') process.kill(processId, 'SIGCONT');
      else processId = (await test.restartWorker(lostWorker)).processId;
      await eventually(20_000, 'the worker is back', async () => {
        const { workers } = await client.status();
        return workers.filter(({ state }) => state === 'alive').length === devices.length;
      });
      await deploy();
      await idle(client);
    }
    return all;
  } finally {
    await test.stop();
  }
}

export const loss: Benchmark = {
  name: 'loss',
  summary: 'one of three workers is killed or hangs under load: how long the streams wait',
  async run(log) {
    const rows: Record<string, string | number>[] = [];
    let different = 0;
    for (const one of cases) {
      const modelPath = await one.model();
      const all = await rounds(one, modelPath, log);
      different += all.reduce((sum, round) => sum + round.different, 0);
      const of = (key: keyof Round) => median(all.map((round) => round[key]));
      rows.push({
        ...{ case: one.name, rounds: all.length, 'noticed s': of('noticed') },
        ...{ 'serves again s': of('serving'), 'next token s': of('waited') },
        'longest s': Math.max(...all.map(({ waited }) => waited)),
      });
    }
    return {
      tables: [
        { title: `${streams} streams; one of three equal workers goes away (medians)`, rows },
      ],
      goals: [atMost('answers that differ', different, 0)],
      notes: [
        'seconds from the signal: until the controller begins another epoch over the other two, until that serves, until the last stream has its next token',
        `half of the streams are greedy, half sampled; answers are held against those of the undisturbed cluster`,
        `the other two load what they lack from the page cache; a core reads ${(measureReadBandwidth() / 1e9).toFixed(1)} GB/s`,
        'a worker that hangs is missed after 5 s of silence',
      ],
    };
  },
};
