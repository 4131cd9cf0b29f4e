import { formatBytes } from '../../proto/domain/device.ts';
import type {
  HalfOpenRange,
  PlannedBatch,
  PlanOutput,
  PlanTargets,
  PlanWorkload,
} from '../../proto/domain/plan.ts';
import type { PolicyForecast } from '../planner/compare-policies.ts';
import { tableText } from './table-text.ts';

const rangeText = ([begin, end]: HalfOpenRange): string =>
  begin === end ? '-' : `${begin}-${end}`;

const milliseconds = (seconds: number): string => `${(seconds * 1e3).toFixed(3)} ms`;

const batchText = (batch: PlannedBatch | null): string =>
  batch === null
    ? 'no batch'
    : `${batch.sequences} sequences (step ${milliseconds(batch.decodeSeconds)}, ${batch.tokensPerSecond.toFixed(1)} tokens/s)`;

function targetLines({ stepSecondsMax, tokensPerSecondMin }: PlanTargets): string[] {
  const lines: string[] = [];
  if (stepSecondsMax !== undefined) {
    lines.push(
      `largest batch with a step of at most ${milliseconds(stepSecondsMax.value)}: ${batchText(stepSecondsMax.largestBatch)}`,
    );
  }
  if (tokensPerSecondMin !== undefined) {
    lines.push(
      `smallest batch with at least ${tokensPerSecondMin.value} tokens/s: ${batchText(tokensPerSecondMin.smallestBatch)}`,
    );
  }
  return lines;
}

/** The name promises more: a cluster file's policies are predicted in lockstep, which `optimal` does not plan for. */
const optimalNote =
  'optimal: the optimum of the formula; predicted in lockstep, where it may be slower than every other policy';

/** All policies side by side; the plan of an infeasible one has no times. */
export function policyTable(policies: readonly PolicyForecast[], workload: PlanWorkload): string {
  const { sequences, contextTokens, prefillChunk } = workload;
  const time = (seconds: number | null): string => (seconds === null ? '-' : milliseconds(seconds));
  const header = ['policy', 'TPOT', 'TTFT', 'tokens/s', 'largest batch', 'KV tokens', 'bound by'];
  const rows = policies.map((forecast) => [
    forecast.policy,
    time(forecast.timePerOutputTokenSeconds),
    time(forecast.timeToFirstTokenSeconds),
    forecast.tokensPerSecond?.toFixed(1) ?? '-',
    forecast.largestBatch?.sequences.toString() ?? '0',
    forecast.kvTokensTotal?.toString() ?? '-',
    forecast.bindingConstraint ?? '-',
  ]);
  const reasons = policies.flatMap(({ policy, reason }) =>
    reason === null ? [] : [`${policy}: ${reason}`],
  );
  const notes = policies.some(({ policy }) => policy === 'optimal') ? [optimalNote] : [];
  const load =
    `${sequences} sequences of ${contextTokens} tokens; TTFT of a prompt of ${contextTokens} tokens ` +
    `in chunks of ${prefillChunk} on an idle group; largest batch at that context`;
  return `${load}\n${[tableText([header, ...rows]), ...notes, ...reasons].join('\n')}\n`;
}

/** A plan for people. */
export function planTable(output: PlanOutput): string {
  const header = [
    'device',
    'heads',
    'FFN columns',
    'vocabulary',
    'weights',
    'KV room',
    'KV share',
    'step',
  ];
  const rows = output.ranks.map((rank, index) => [
    rank.device,
    rangeText(rank.headGroups),
    rangeText(rank.ffnColumns),
    rangeText(rank.vocabRows),
    formatBytes(rank.weightBytes),
    formatBytes(rank.kvBytes),
    `${(rank.kvShare * 100).toFixed(1)} %`,
    milliseconds(output.predicted.perRankSeconds[index] ?? 0),
  ]);
  const { predicted } = output;
  const summary = [
    `policy ${output.policy}: ${output.feasible ? 'feasible' : `not feasible: ${output.reason ?? ''}`}`,
    `decode step ${milliseconds(predicted.decodeSeconds)}, prefill step ${milliseconds(predicted.prefillSeconds)}, ` +
      `KV for ${predicted.kvTokensTotal} tokens, bound by ${predicted.bindingConstraint}`,
  ];
  const loans = (output.kvLoans ?? []).map(
    ({ owner, holder, tokens: [begin, end] }) =>
      `KV of ${end - begin} tokens for the heads of ${owner} lies on ${holder}`,
  );
  const targets = output.targets === undefined ? [] : targetLines(output.targets);
  const warnings = (output.warnings ?? []).map((warning) => `warning: ${warning}`);
  const lines = [...summary, ...loans, ...targets, ...warnings];
  return `${tableText([header, ...rows])}\n${lines.join('\n')}\n`;
}
