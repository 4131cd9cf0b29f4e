import { readFile, writeFile } from 'node:fs/promises';
import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput, PlanPolicy } from '../../proto/domain/plan.ts';
import { parsePlanInput } from '../planner/parse-plan-input.ts';
import { plan } from '../planner/plan.ts';
import { clusterPlanInput } from '../profiler/cluster-input.ts';
import { deploymentObjective } from '../profiler/plan-input.ts';
import type { RequestRecord } from '../simulator/request-log.ts';
import { simulate } from '../simulator/simulate.ts';
import type { Arrival } from '../simulator/trace/arrival.ts';
import { generateTrace } from '../simulator/trace/generate-trace.ts';
import { parseTrace } from '../simulator/trace/parse-trace.ts';
import { readCluster, readDeviceProfiles, readModelShape } from './cluster-file.ts';
import { causeText, readParsed } from './read-file.ts';
import { parseSimulateOptions, type SimulateOptions } from './simulate-options.ts';
import type { PolicySimulation, SimulationComparison } from './simulation-comparison.ts';
import { simulationPlot } from './simulation-plot.ts';
import { simulationTable } from './simulation-table.ts';

/** KV positions of a block: what the engine allocates at once. */
const kvBlockTokens = 16;

interface Served {
  readonly input: PlanInput;
  /** Positions of one sequence that the model has; a plan input does not say, so the KV room decides. */
  readonly positionsMax: number;
}

async function readServed(options: SimulateOptions): Promise<Served> {
  const { devices, sequences, prefillChunk } = options;
  if (devices.type === 'input') {
    const json = await readParsed(devices.path, { option: '--input', format: 'json' });
    // What is simulated is a deployment, unless the file asks for the formula of the step.
    const objective = { objective: deploymentObjective };
    const known = typeof json === 'object' && json !== null && !Array.isArray(json);
    const input = parsePlanInput(known ? { ...objective, ...json } : json);
    const workload = {
      ...input.workload,
      ...(sequences === undefined ? {} : { sequences }),
      ...(prefillChunk === undefined ? {} : { prefillChunk }),
    };
    return { input: { ...input, workload }, positionsMax: Number.MAX_SAFE_INTEGER };
  }
  const [profiles, cluster, model] = await Promise.all([
    readDeviceProfiles(),
    readCluster(devices.path),
    readModelShape(devices.model),
  ]);
  const workload = {
    sequences: sequences ?? 1,
    contextTokens: devices.contextTokens,
    prefillChunk: prefillChunk ?? 1,
    outputTokens: 0,
  };
  const input = clusterPlanInput(cluster, model, workload, profiles);
  return { input, positionsMax: model.maxPositions };
}

async function readTrace({ trace, requestsMax, seed }: SimulateOptions): Promise<Arrival[]> {
  if (trace.type === 'generated') return generateTrace(trace.trace, seed).slice(0, requestsMax);
  let content: string;
  try {
    content = await readFile(trace.path, 'utf8');
  } catch (error) {
    const message = `--trace: ${trace.path} cannot be read: ${causeText(error)}`;
    throw new HelsError('config-invalid', message, { field: '--trace' });
  }
  return parseTrace(content, requestsMax);
}

function limitsOf({ input, positionsMax }: Served, trace: readonly Arrival[]) {
  const { sequences: sequencesMax, prefillChunk: stepTokensMax } = input.workload;
  if (sequencesMax > stepTokensMax) {
    const problem = `is ${sequencesMax}; it must be at most --prefill-chunk, ${stepTokensMax}: each sequence may decode in one step`;
    throw new HelsError('usage', `--sequences ${problem}`, { field: '--sequences' });
  }
  // A queue without end: the trace is compared whole.
  const waitingMax = Math.max(1, trace.length);
  return { kvBlockTokens, stepTokensMax, sequencesMax, contextTokensMax: positionsMax, waitingMax };
}

/** Changes name devices of the cluster. */
function checkChanges({ cluster }: SimulateOptions, { input }: Served): void {
  for (const { device, type } of cluster?.changes ?? []) {
    if (input.devices.some(({ id }) => id === device)) continue;
    const option = type === 'worker-lost' ? '--lose' : '--join';
    const known = input.devices.map(({ id }) => id).join(', ');
    throw new HelsError('usage', `${option} names '${device}'; the devices are ${known}`, {
      field: option,
    });
  }
}

interface Run extends PolicySimulation {
  readonly records: readonly RequestRecord[];
}

function runPolicy(
  policy: PlanPolicy,
  served: Served,
  trace: readonly Arrival[],
  options: SimulateOptions,
): Run {
  const input = { ...served.input, policy };
  // The solver's own time is no part of a result that one seed decides.
  const made = plan(input, () => 0);
  const { serviceLevel, seed, noise, controlSeconds, cluster } = options;
  const limits = limitsOf(served, trace);
  try {
    const { report, records } = simulate({
      ...{ input, plan: made, trace, limits },
      ...{ serviceLevel, seed, noise, controlSeconds },
      ...(cluster === undefined ? {} : { cluster }),
    });
    return { policy, plan: made, report, reason: made.reason ?? null, records };
  } catch (error) {
    if (!(error instanceof HelsError) || error.code !== 'plan-infeasible') throw error;
    return { policy, plan: made, report: null, reason: error.message, records: [] };
  }
}

async function writePlot(path: string, runs: readonly Run[], title: string): Promise<void> {
  try {
    await writeFile(path, simulationPlot(runs, title));
  } catch (error) {
    const message = `--out: ${path} cannot be written: ${causeText(error)}`;
    throw new HelsError('config-invalid', message, { field: '--out' });
  }
}

/**
 * `simulate --cluster FILE --model FILE --trace ...`: the policies side by side as text, and the plot as a file. A policy that cannot serve is
 * an answer. Throws usage for a wrong command line, config-invalid and model-invalid for files that cannot be read or are wrong.
 */
export async function simulateCommand(args: readonly string[]): Promise<string> {
  const options = parseSimulateOptions(args);
  const [served, trace] = await Promise.all([readServed(options), readTrace(options)]);
  const { sequencesMax, stepTokensMax } = limitsOf(served, trace);
  checkChanges(options, served);
  const runs = options.policies.map((policy) => runPolicy(policy, served, trace, options));
  const seconds = trace.at(-1)?.atSeconds ?? 0;
  const title = `${trace.length} requests over ${seconds.toFixed(0)} s, ${sequencesMax} sequences at most`;
  if (options.out !== undefined) await writePlot(options.out, runs, title);
  const comparison: SimulationComparison = {
    trace: {
      requests: trace.length,
      seconds,
      promptTokens: trace.reduce((sum, { promptTokens }) => sum + promptTokens, 0),
      outputTokens: trace.reduce((sum, { outputTokens }) => sum + outputTokens, 0),
    },
    workload: served.input.workload,
    limits: { sequencesMax, stepTokensMax },
    policies: runs.map(({ records: _, ...policy }) => policy),
  };
  return options.json ? `${JSON.stringify(comparison, null, 2)}\n` : simulationTable(comparison);
}
