/** Short prompts beside a stream of long ones, in the simulator: what docs/serving.md shows. */
import { plan } from '../../controller/planner/plan.ts';
import { clusterPlanInput } from '../../controller/profiler/cluster-input.ts';
import { tpotOf, ttftOf } from '../../controller/simulator/report.ts';
import type { RequestRecord } from '../../controller/simulator/request-log.ts';
import { simulate } from '../../controller/simulator/simulate.ts';
import { generateTrace } from '../../controller/simulator/trace/generate-trace.ts';
import {
  readCluster,
  readDeviceProfiles,
  readModelShape,
} from '../../controller/tools/cluster-file.ts';
import { quantile } from '../../proto/domain/quantile.ts';

const shortPromptTokens = 128;
const longPromptTokens = 8192;

export interface ShortPromptFigures {
  shorts: number;
  longs: number;
  shortTtft: { p50: number; p95: number };
  shortTpotP95: number;
  longTtftP50: number;
}

const percentile = (values: readonly number[], share: number) =>
  quantile(
    values.toSorted((left, right) => left - right),
    share,
  );

/** 600 short prompts, 4 a second, and long ones at a rate of their own; both Poisson. Seconds. */
export async function shortPrompts(longsPerSecond: number): Promise<ShortPromptFigures> {
  const process = (ratePerSecond: number) => ({ type: 'poisson' as const, ratePerSecond });
  const lengths = (promptTokens: number) =>
    ({ type: 'fixed', promptTokens, outputTokens: 64 }) as const;
  const shorts = generateTrace(
    { process: process(4), count: 600, lengths: lengths(shortPromptTokens) },
    1,
  );
  const endSeconds = shorts.at(-1)?.atSeconds ?? 0;
  const longs =
    longsPerSecond === 0
      ? []
      : generateTrace(
          { process: process(longsPerSecond), count: 600, lengths: lengths(longPromptTokens) },
          2,
        ).filter(({ atSeconds }) => atSeconds < endSeconds);
  const trace = [...shorts, ...longs].toSorted((left, right) => left.atSeconds - right.atSeconds);
  const cluster = await readCluster('deploy/examples/llama-2-13b-2xa100-2xp100.yaml');
  const model = await readModelShape('deploy/examples/models/llama-2-13b');
  const workload = { sequences: 64, contextTokens: 1024, prefillChunk: 512, outputTokens: 0 };
  const input = clusterPlanInput(cluster, model, workload, await readDeviceProfiles());
  const { records } = simulate({
    input,
    plan: plan(input, () => 0),
    trace,
    limits: {
      kvBlockTokens: 16,
      stepTokensMax: 512,
      sequencesMax: 64,
      contextTokensMax: 2 * longPromptTokens,
      waitingMax: trace.length,
    },
    serviceLevel: { ttftSeconds: 1, tpotSeconds: 0.1 },
    seed: 1,
  });
  const of = (promptTokens: number) => {
    const chosen = records.filter(({ arrival }) => arrival.promptTokens === promptTokens);
    if (chosen.some(({ outcome }) => outcome !== 'completed')) throw new Error('one did not end');
    return chosen;
  };
  const seconds = (chosen: readonly RequestRecord[], share: number, value = ttftOf) =>
    percentile(chosen.map(value), share);
  const [short, long] = [of(shortPromptTokens), of(longPromptTokens)];
  return {
    shorts: short.length,
    longs: long.length,
    shortTtft: { p50: seconds(short, 0.5), p95: seconds(short, 0.95) },
    shortTpotP95: seconds(short, 0.95, tpotOf),
    longTtftP50: seconds(long, 0.5),
  };
}
