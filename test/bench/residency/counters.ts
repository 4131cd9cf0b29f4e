/** What the controller counted about KV during a load: differences of its metrics, and the most that was seen at once. */
import type { HelsClient } from '../../../client/sdk/index.ts';

export interface KvCounters {
  preempted: number;
  /** Tokens whose KV was moved back; computed again. */
  reloadedTokens: number;
  replayedTokens: number;
  /** Tokens whose KV came home from a loan. */
  recalledTokens: number;
  reloadSeconds: number;
  replaySeconds: number;
  /** Given up although there was a parked address. */
  droppedByChoiceTokens: number;
  computedTokens: number;
  recomputedTokens: number;
  /** Of the rank that spent most. */
  remoteSeconds: number;
}

/** Sum over the lines of a metric that have the label, in Prometheus' text format. */
function valuesOf(text: string, name: string, label = ''): number[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .filter((line) => line.includes(label))
    .map((line) => Number(line.split(' ').at(-1)));
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

export async function readCounters(url: string): Promise<KvCounters> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const one = (name: string, label = '') => sum(valuesOf(text, `hels_${name}_total`, label));
  return {
    preempted: one('sequences_preempted'),
    reloadedTokens: one('kv_restored_tokens', 'path="reload"'),
    replayedTokens: one('kv_restored_tokens', 'path="replay"'),
    recalledTokens: one('kv_restored_tokens', 'path="recall"'),
    reloadSeconds: one('kv_restore_seconds', 'path="reload"'),
    replaySeconds: one('kv_restore_seconds', 'path="replay"'),
    droppedByChoiceTokens: one('kv_dropped_by_choice_tokens'),
    computedTokens: one('tokens_computed'),
    recomputedTokens: one('tokens_recomputed'),
    remoteSeconds: Math.max(0, ...valuesOf(text, 'hels_kv_remote_seconds_total')),
  };
}

export function difference(after: KvCounters, before: KvCounters): KvCounters {
  const entries = Object.entries(after) as [keyof KvCounters, number][];
  return Object.fromEntries(
    entries.map(([name, value]) => [name, value - before[name]]),
  ) as unknown as KvCounters;
}

const sampleIntervalMs = 200;

/** The most that the status showed during a load. */
export interface KvPeaks {
  running: number;
  /** Tokens on another rank than their heads; in parked blocks. */
  remoteTokens: number;
  parkedTokens: number;
}

export async function watchPeaks<Result>(
  client: HelsClient,
  work: Promise<Result>,
): Promise<{ result: Result; peaks: KvPeaks }> {
  const peaks: KvPeaks = { running: 0, remoteTokens: 0, parkedTokens: 0 };
  let over = false;
  const watch = async () => {
    while (!over) {
      const { requestsRunning, rankKv } = await client.status();
      const most = (of: (rank: (typeof rankKv)[number]) => number) =>
        Math.max(0, ...rankKv.map(of));
      peaks.running = Math.max(peaks.running, requestsRunning);
      peaks.remoteTokens = Math.max(
        peaks.remoteTokens,
        most((rank) => rank.remoteTokens),
      );
      peaks.parkedTokens = Math.max(
        peaks.parkedTokens,
        most((rank) => rank.parkedTokens),
      );
      await new Promise((resolve) => setTimeout(resolve, sampleIntervalMs));
    }
  };
  const watching = watch();
  try {
    return { result: await work, peaks };
  } finally {
    over = true;
    await watching;
  }
}
