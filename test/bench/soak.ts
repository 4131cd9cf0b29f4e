/**
 * A bounded load of several minutes on the demo's daemons: streams of mixed lengths, some abandoned half way. Looks for what only shows
 * with time: memory of the daemons that grows with the requests, KV blocks that do not come back, requests that fail.
 */
import OpenAI from 'openai';
import { bundledModel, bundledModelId } from '../support/daemons.ts';
import { atMost, type Benchmark } from './benchmark.ts';
import { type BenchCluster, withCluster } from './cluster.ts';
import { type GrowthBounds, MemoryWatch } from './memory.ts';

/** HELS_SOAK_SECONDS: how long the load lasts. */
const loadSeconds = Number(process.env['HELS_SOAK_SECONDS'] ?? 240);
const streamsPerRound = 16;
const outputTokensMax = 96;
const idleDeadlineMs = 10_000;
const sampleIntervalMs = 5_000;
/** What is compiled and pooled by then is no leak; compilation goes on slowly, and the bounds leave room for it. */
const warmUpShare = 1 / 2;
const growthBounds: GrowthBounds = {
  unit: '10,000 requests',
  unitWork: 10_000,
  // 312 bytes a step that were never freed made about 20 MiB.
  liveKiBMax: 2048,
  nativeMiBMax: 8,
};

/** By hand: the planner may leave slow devices out, and then these would do nothing. */
const ranks = [4, 2, 2].map((headGroups, index) => ({
  workerId: `worker-${index}`,
  headGroups,
  ffnWeight: headGroups,
}));

/** Repeatable whole numbers from 0 to `below` - 1. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % below;
  };
}

/** One answer; `abandonAfter` chunks the client goes away (0: never). */
async function stream(
  client: OpenAI,
  maxTokens: number,
  promptWords: number,
  abandonAfter: number,
) {
  const events = await client.completions.create({
    model: bundledModelId,
    prompt: 'the split of a model '.repeat(promptWords),
    max_tokens: maxTokens,
    stream: true,
    ...{ ignore_eos: true },
  });
  let chunks = 0;
  for await (const _ of events) {
    chunks += 1;
    if (chunks === abandonAfter) {
      events.controller.abort();
      return;
    }
  }
}

async function gauge(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
  return Number(line?.split(' ')[1] ?? Number.NaN);
}

/** KV blocks still in use when nothing runs any more; abandoned requests end a step later, so it waits a little. */
async function blocksLeft(url: string): Promise<number> {
  const endMs = performance.now() + idleDeadlineMs;
  for (;;) {
    const used = await gauge(url, 'hels_kv_blocks_used');
    if (used === 0 || performance.now() > endMs) return used;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

interface SoakState {
  rounds: number;
  requests: number;
  abandoned: number;
  failures: string[];
  blocksLeftMax: number;
}

async function runRounds(
  cluster: BenchCluster,
  watch: MemoryWatch,
  log: (line: string) => void,
): Promise<SoakState> {
  const { httpUrl, processIds } = cluster.cluster;
  const client = new OpenAI({ baseURL: `${httpUrl}/v1`, apiKey: 'none', maxRetries: 0 });
  const random = randomNumbers(20_261_124);
  const state: SoakState = {
    rounds: 0,
    requests: 0,
    abandoned: 0,
    failures: [],
    blocksLeftMax: 0,
  };
  let sampledMs = Number.NEGATIVE_INFINITY;
  const endMs = performance.now() + loadSeconds * 1000;
  while (performance.now() < endMs) {
    const streams = Array.from({ length: streamsPerRound }, async () => {
      const abandonAfter = random(4) === 0 ? 1 + random(8) : 0;
      if (abandonAfter > 0) state.abandoned += 1;
      await stream(client, 8 + random(outputTokensMax - 8), 1 + random(24), abandonAfter);
    });
    state.requests += streams.length;
    for (const result of await Promise.allSettled(streams)) {
      if (result.status === 'rejected') state.failures.push(String(result.reason));
    }
    state.blocksLeftMax = Math.max(state.blocksLeftMax, await blocksLeft(httpUrl));
    state.rounds += 1;
    if (performance.now() - sampledMs > sampleIntervalMs) {
      await watch.sample(processIds, state.requests);
      sampledMs = performance.now();
    }
    if (state.rounds % 20 === 0) log(`${state.requests} requests`);
  }
  return state;
}

export const soak: Benchmark = {
  name: 'soak',
  summary: 'minutes of mixed load on three daemons: failures, KV blocks, memory',
  onlyByName: true,
  async run(log) {
    const workers = ['cpu?threads=1', 'cpu?threads=1&speed=0.4', 'cpu?threads=1&memory=64MiB'];
    const devices = workers.map((device) => ({ device, core: null }));
    return await MemoryWatch.during(async (watch) => {
      const state = await withCluster(devices, null, async (cluster) => {
        await cluster.deploy({ modelPath: bundledModel, workersMin: workers.length, ranks });
        return await runRounds(cluster, watch, log);
      });
      const memory = watch.findings(warmUpShare * state.requests, growthBounds);
      const { rounds, requests, abandoned, failures, blocksLeftMax } = state;
      return {
        tables: [
          {
            title: `${loadSeconds} seconds of load`,
            rows: [{ rounds, requests, abandoned, failed: failures.length, blocksLeftMax }],
          },
          ...memory.tables,
        ],
        goals: [
          atMost('requests that failed', failures.length, 0),
          atMost('KV blocks in use when idle', blocksLeftMax, 0),
          ...memory.goals,
        ],
        notes: failures.slice(0, 3),
      };
    });
  },
};
