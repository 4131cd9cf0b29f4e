/** `npm run bench -- [NAME...]`: runs the benchmarks named, or all; prints tables and keeps each result in test/bench/results. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { autoReplan } from './auto-replan.ts';
import { type Benchmark, formatGoal, formatTable } from './benchmark.ts';
import { chaos } from './chaos.ts';
import { engine } from './engine.ts';
import { engineQuantized } from './engine-quantized.ts';
import { gpu } from './gpu.ts';
import { heterogeneous } from './heterogeneous.ts';
import { kvResidency } from './kv-residency.ts';
import { loss } from './loss.ts';
import { describeMachine, measureReadBandwidth } from './machine.ts';
import { plannerSpeed } from './planner-speed.ts';
import { prediction } from './prediction.ts';
import { prefixCache } from './prefix-cache.ts';
import { quantization } from './quantization.ts';
import { redeploy } from './redeploy.ts';
import { residencySchedules } from './residency-schedules.ts';
import { serving } from './serving.ts';
import { slowDevice } from './slow-device.ts';
import { soak } from './soak.ts';

const benchmarks: readonly Benchmark[] = [
  plannerSpeed,
  quantization,
  engine,
  engineQuantized,
  serving,
  prefixCache,
  prediction,
  heterogeneous,
  slowDevice,
  kvResidency,
  loss,
  soak,
  redeploy,
  residencySchedules,
  autoReplan,
  chaos,
  gpu,
];

const resultsDirectory = fileURLToPath(new URL('./results', import.meta.url));

async function runOne(benchmark: Benchmark): Promise<void> {
  const machine = describeMachine();
  const readBytesPerSecond = measureReadBandwidth();
  const command = `npm run bench -- ${benchmark.name}`;
  console.log(`\n== ${benchmark.name}: ${benchmark.summary}`);
  console.log(
    `   ${machine.processor}, ${machine.cores} cores, ${machine.memory}, Node ${machine.node}`,
  );
  console.log(`   commit ${machine.commit}, ${machine.date}, ${command}`);
  console.log(`   one core reads ${(readBytesPerSecond / 1e9).toFixed(1)} GB/s from memory`);
  const startMs = performance.now();
  const findings = await benchmark.run((line) => console.log(`   ${line}`));
  const seconds = Math.round((performance.now() - startMs) / 1000);
  for (const table of findings.tables) console.log(`\n${formatTable(table)}`);
  console.log('');
  for (const note of findings.notes) console.log(`note: ${note}`);
  for (const goal of findings.goals) console.log(formatGoal(goal));
  if (benchmark.onlyByName && findings.goals.some(({ met }) => !met)) process.exitCode = 1;
  mkdirSync(resultsDirectory, { recursive: true });
  const file = join(resultsDirectory, `${benchmark.name}.json`);
  const result = {
    name: benchmark.name,
    command,
    machine,
    readBytesPerSecond,
    seconds,
    ...findings,
  };
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
}

const names = process.argv.slice(2);
const unknown = names.find((name) => !benchmarks.some((benchmark) => benchmark.name === name));
if (unknown !== undefined) {
  const known = benchmarks.map(({ name, summary }) => `  ${name}: ${summary}`).join('\n');
  console.error(`there is no benchmark '${unknown}'; the benchmarks are\n${known}`);
  process.exitCode = 2;
} else {
  for (const benchmark of benchmarks) {
    const wanted = names.length === 0 ? !benchmark.onlyByName : names.includes(benchmark.name);
    if (wanted) await runOne(benchmark);
  }
}
