// Speed of the planner over the size of the cluster. After `make build`: node test/bench/planner-speed.mjs
// Wall time, and the processor time of the process: on a busy machine only the second says what the planner costs.
import { cpus } from 'node:os';
import { plan } from '../../dist/controller/planner/plan.js';

/** Repeatable numbers in [0, 1). */
function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

/** A mixed cluster with speeds up to twelve times apart and memory for about twice the model. */
function planInput(devices, headGroups, granules, seed) {
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
    vocabRows: 32000,
    weightBytesPerParam: 2,
    kvBytesPerElement: 2,
  };
  const bytes = headGroups * (2.1e8 + 1.7e8) + granules * 1.6e8;
  const list = Array.from({ length: devices }, (_, index) => {
    const slowness = Math.exp(random() * 2.5);
    const stray = () => slowness * (0.7 + 0.6 * random());
    const line = (scale) => ({
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

const processorMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e3;
};
const targetMs = { 64: 20, 1000: 100 };

const median = (values) => values.toSorted((left, right) => left - right)[Math.floor(values.length / 2)];

const sizes = [
  [2, 40, 108],
  [4, 40, 108],
  [8, 40, 108],
  [16, 64, 108],
  [64, 128, 128],
  [250, 256, 256],
  [1000, 1000, 1024],
];
const points = [];
process.stdout.write(`planner, policy hels, on ${cpus()[0]?.model ?? 'an unknown CPU'}, Node ${process.version}\n`);
for (const [devices, headGroups, granules] of sizes) {
  const times = [];
  const processorTimes = [];
  let first = 0;
  for (let seed = 1; seed <= 25; seed += 1) {
    const input = planInput(devices, headGroups, granules, seed);
    const startMs = processorMs();
    const { feasible, solver } = plan(input, () => performance.now());
    processorTimes.push(processorMs() - startMs);
    if (!feasible) throw new Error(`seed ${seed} has no feasible plan`);
    if (seed === 1) first = solver.milliseconds;
    times.push(solver.milliseconds);
  }
  points.push([Math.log(devices), Math.log(median(processorTimes))]);
  process.stdout.write(
    `${devices} devices, ${headGroups} head groups, ${granules} granules: median ${median(times).toFixed(2)} ms, ` +
      `first ${first.toFixed(2)} ms, slowest ${Math.max(...times).toFixed(2)} ms; ` +
      `processor median ${median(processorTimes).toFixed(2)} ms` +
      `${targetMs[devices] === undefined ? '' : ` (target ${targetMs[devices]} ms)`}\n`,
  );
}
const mean = (index) => points.reduce((sum, point) => sum + point[index], 0) / points.length;
const [meanX, meanY] = [mean(0), mean(1)];
const slope =
  points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) /
  points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
process.stdout.write(`growth of the processor time with the number of devices: exponent ${slope.toFixed(2)}\n`);
