/** Speed of the planner over the size of the cluster. */

import { plan } from '../../controller/planner/plan.ts';
import { type LatencyLine, type PlanInput, planObjectives } from '../../proto/domain/plan.ts';
import { atMost, type Benchmark } from './benchmark.ts';
import { median } from './statistics.ts';

/** Repeatable numbers in [0, 1). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

/** A mixed cluster with speeds up to twelve times apart and memory for about twice the model. */
function planInput(devices: number, headGroups: number, granules: number, seed: number): PlanInput {
  const random = randomNumbers(seed);
  const model = {
    layers: 40,
    hiddenSize: 5120,
    headGroups,
    queryHeadsPerGroup: 1,
    headDim: 128,
    ffnColumns: granules * 128,
    ffnGranule: 128,
    ffnMatrices: 3,
    vocabRows: 32_000,
    weightBytesPerParam: 2,
    kvBytesPerElement: 2,
  };
  const bytes = headGroups * (2.1e8 + 1.7e8) + granules * 1.6e8;
  const list = Array.from({ length: devices }, (_, index) => {
    const slowness = Math.exp(random() * 2.5);
    const stray = () => slowness * (0.7 + 0.6 * random());
    const line = (scale: number): LatencyLine => ({
      constant: 2e-4 * random(),
      perHeadGroup: 5e-5 * stray() * scale,
      perFfnColumn: 4e-7 * stray() * scale,
      perVocabRow: 1e-8 * stray() * scale,
      perContextHeadGroup: 1e-9 * stray(),
    });
    return {
      id: `device-${index}`,
      memoryBytes: (bytes / devices) * (1 + 2 * random()) + 1e9,
      reservedBytes: 1e8,
      decode: [line(1), line(0.7)],
      prefill: line(1),
      link: { constant: 1e-4 * random(), perToken: 1e-6 * random() },
    };
  });
  const workload = { sequences: 32, contextTokens: 512, prefillChunk: 512, outputTokens: 128 };
  return { model, workload, devices: list, policy: 'hels' };
}

const sizes = [
  [2, 40, 108],
  [4, 40, 108],
  [8, 40, 108],
  [16, 64, 108],
  [64, 128, 128],
  [250, 256, 256],
  [1000, 1000, 1024],
] as const;
const instances = 25;

/** Milliseconds, by instance; the first includes what the JavaScript engine still has to compile. */
function solve(
  objective: (typeof planObjectives)[number],
  [devices, headGroups, granules]: (typeof sizes)[number],
): number[] {
  return Array.from({ length: instances }, (_, index) => {
    const input = { ...planInput(devices, headGroups, granules, index + 1), objective };
    const { feasible, reason, solver } = plan(input, () => performance.now());
    if (!feasible) throw new Error(`instance ${index + 1} has no feasible plan: ${reason}`);
    return solver.milliseconds;
  });
}

/** Slope of the line of least squares. */
function slope(points: readonly (readonly [number, number])[]): number {
  const mean = (index: 0 | 1) =>
    points.reduce((sum, point) => sum + point[index], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  return (
    points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) /
    points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0)
  );
}

export const plannerSpeed: Benchmark = {
  name: 'planner-speed',
  summary: 'time of policy hels over the size of the cluster',
  async run() {
    const solved = planObjectives.flatMap((objective) =>
      sizes.map((size) => {
        const [devices, headGroups, granules] = size;
        return { objective, devices, headGroups, granules, times: solve(objective, size) };
      }),
    );
    const exponentOf = (objective: string) => {
      const rows = solved.filter((row) => row.objective === objective);
      return slope(rows.map(({ devices, times }) => [Math.log(devices), Math.log(median(times))]));
    };
    const goal = (objective: string, devices: number, milliseconds: number) => {
      const row = solved.find((one) => one.objective === objective && one.devices === devices);
      const name = `${objective}: ${devices} devices, ${row?.headGroups} head groups: median ms`;
      return atMost(name, median(row?.times ?? []), milliseconds);
    };
    return {
      tables: [
        {
          title: `milliseconds of one plan, ${instances} random clusters each`,
          rows: solved.map(({ times, ...size }) => ({
            ...size,
            median: median(times),
            first: times[0] ?? 0,
            slowest: Math.max(...times),
          })),
        },
      ],
      goals: planObjectives.flatMap((objective) => [
        goal(objective, 64, 20),
        goal(objective, 1000, 100),
      ]),
      notes: planObjectives.map(
        (objective) =>
          `growth with the number of devices, ${objective}: exponent ${exponentOf(objective).toFixed(2)}`,
      ),
    };
  },
};
