import { formatBytes } from '../../proto/domain/device.ts';
import type { HalfOpenRange, PlanOutput } from '../../proto/domain/plan.ts';

const rangeText = ([begin, end]: HalfOpenRange): string =>
  begin === end ? '-' : `${begin}-${end}`;

const milliseconds = (seconds: number): string => `${(seconds * 1e3).toFixed(3)} ms`;

/** Columns padded to their widest cell; numbers need no other care. */
function tableText(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
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
  return `${tableText([header, ...rows])}\n${summary.join('\n')}\n`;
}
