import type { PlanInput, PlanOutput, PlanWorkload } from '../../proto/domain/plan.ts';
import { comparePolicies, type PolicyForecast } from '../planner/compare-policies.ts';
import { type Explanation, explain } from '../planner/explain.ts';
import { plan } from '../planner/plan.ts';
import { clusterPlanInput } from '../profiler/cluster-input.ts';
import { readCluster, readDeviceProfiles, readModelShape } from './cluster-file.ts';
import { explanationText } from './explanation-text.ts';
import { type ClusterOptions, type InputOptions, parsePlanOptions } from './plan-options.ts';
import { planTable, policyTable } from './plan-table.ts';
import { readParsed } from './read-file.ts';

const jsonText = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

async function planFromInput(options: InputOptions, nowMs: () => number): Promise<string> {
  const json = await readParsed(options.input, { option: '--input', format: 'json' });
  const { policy } = options;
  const overridden =
    policy === undefined || typeof json !== 'object' || json === null ? json : { ...json, policy };
  // The planner checks every field itself.
  const input = overridden as PlanInput;
  const output = plan(input, nowMs);
  const explanation = options.explain ? explain(input, output) : null;
  if (options.json) return jsonText(explanation === null ? output : { ...output, explanation });
  return planTable(output) + (explanation === null ? '' : explanationText(explanation));
}

/** What `plan --cluster --json` prints. */
export interface ClusterPlanReport {
  /** The planner's input made from the cluster file: what `plan --input` would take. */
  readonly input: PlanInput;
  /** The plan of the first policy. */
  readonly plan: PlanOutput;
  readonly policies: readonly PolicyForecast[];
  /** Only with --explain. */
  readonly explanation?: Explanation;
}

async function planFromCluster(options: ClusterOptions, nowMs: () => number): Promise<string> {
  const [profiles, cluster, model] = await Promise.all([
    readDeviceProfiles(),
    readCluster(options.cluster),
    readModelShape(options.model),
  ]);
  const { sequences, contextTokens, prefillChunk, stepSecondsMax, tokensPerSecondMin } = options;
  const workload: PlanWorkload = {
    sequences,
    contextTokens,
    prefillChunk,
    outputTokens: 0,
    ...(stepSecondsMax === undefined ? {} : { stepSecondsMax }),
    ...(tokensPerSecondMin === undefined ? {} : { tokensPerSecondMin }),
  };
  const [policy = 'hels'] = options.policies;
  const input = { ...clusterPlanInput(cluster, model, workload, profiles), policy };
  const output = plan(input, nowMs);
  const report: ClusterPlanReport = {
    input,
    plan: output,
    policies: comparePolicies(input, options.policies),
    ...(options.explain ? { explanation: explain(input, output) } : {}),
  };
  if (options.json) return jsonText(report);
  const explained = report.explanation === undefined ? '' : explanationText(report.explanation);
  return `${planTable(output)}\n${policyTable(report.policies, workload)}${explained}`;
}

/**
 * `plan --input FILE` or `plan --cluster FILE --model FILE`: the text to print. An infeasible plan is an answer, not an error. Throws usage
 * for a wrong command line, config-invalid and model-invalid for files that cannot be read or are wrong. `nowMs` times the solver.
 */
export async function planCommand(args: readonly string[], nowMs: () => number): Promise<string> {
  const options = parsePlanOptions(args);
  return 'input' in options
    ? await planFromInput(options, nowMs)
    : await planFromCluster(options, nowMs);
}
