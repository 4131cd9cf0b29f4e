/** The tools' results for people. Pure. */
import { formatBytes } from '../../proto/domain/device.ts';
import type { DoctorReport } from './doctor.ts';
import type { InspectReport } from './inspect.ts';
import type { QuantizeReport } from './quantize.ts';
import type { VerifyReport } from './verify.ts';

/** Columns as wide as their widest cell, two spaces apart. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function describeVerification(report: VerifyReport): string {
  const header = [
    'rank',
    'head groups',
    'FFN columns',
    'vocab rows',
    'weights loaded',
    'all-reduces',
  ];
  const ranks = report.ranks.map((rank, index) => [
    String(index),
    showRange(rank.headGroups),
    showRange(rank.ffnColumns),
    showRange(rank.vocabRows),
    formatBytes(rank.weightBytesLoaded),
    `${rank.allReduceCount} (${formatBytes(rank.allReduceBytes)})`,
  ]);
  const corrupted = report.corrupted === undefined ? [] : [['corrupted', 'yes']];
  const facts = table([
    ['weights', report.quantization === 'none' ? report.weightType : report.quantization],
    [
      'difference',
      report.maxDifference.toExponential(2) +
        (report.tolerance === null ? '' : ` (allowed ${report.tolerance.toExponential(2)})`),
    ],
    [
      'divergence',
      `${report.klMean.toExponential(2)} nats; same best token at ${(100 * report.topTokenAgreement).toFixed(0)} % of the positions`,
    ],
    ['greedy', report.greedyMatch ? 'same tokens' : 'other tokens'],
    ['logits', `sha256 ${report.logitsSha256}`],
    ...corrupted,
    ['result', report.passed ? 'passed' : 'FAILED'],
  ]);
  return `${table([header, ...ranks])}\n\n${facts}`;
}

export function describeQuantization(report: QuantizeReport): string {
  const { target, quantization, tensors, sourceBytes, targetBytes } = report;
  const share = ((100 * targetBytes) / sourceBytes).toFixed(0);
  return table([
    ['written', target],
    ['weights', `${quantization}, ${tensors} tensors`],
    ['size', `${formatBytes(targetBytes)}, ${share} % of ${formatBytes(sourceBytes)}`],
  ]);
}

export function describeInspection(report: InspectReport): string {
  const { spec, tensors, problems } = report;
  const facts = [
    ['directory', report.directory],
    ['digest', report.digest ?? '-'],
    ['weights', `${tensors.length} tensors, ${formatBytes(report.weightBytes)}`],
    ...(spec === null ? [] : describeSpec(spec)),
  ];
  const list =
    problems.length === 0
      ? 'no problems: Hels can serve this model'
      : problems.map(({ check, message }) => `problem (${check}): ${message}`).join('\n');
  return `${table(facts)}\n\n${list}`;
}

function describeSpec(spec: NonNullable<InspectReport['spec']>): string[][] {
  const queries = spec.queryHeadsPerGroup === 1 ? '' : ` of ${spec.queryHeadsPerGroup} query heads`;
  const windows = [...new Set(spec.slidingWindows)].map((window) => window || 'all positions');
  return [
    [
      'family',
      `${spec.family}, weights as ${spec.quantization === 'none' ? spec.weightType : spec.quantization}`,
    ],
    [
      'shape',
      `${spec.layers} layers, hidden size ${spec.hiddenSize}, vocabulary ${spec.vocabRows}`,
    ],
    [
      'attention',
      `${spec.headGroups} head groups${queries}, head size ${spec.headDim}; sees ${windows.join(', ')}`,
    ],
    ['MLP', `${spec.ffnColumns} columns in granules of ${spec.ffnGranule}`],
    ['positions', `${spec.maxPositions}, ${spec.position}, scaling ${spec.ropeScaling}`],
  ];
}

function showRange([begin, end]: readonly [number, number]): string {
  return begin === end ? '-' : `[${begin}, ${end})`;
}

export function describeHost({ hels, node, processor, cuda }: DoctorReport): string {
  const none = cuda.devices.length === 0;
  const gpus = cuda.devices.map((device) => [
    `cuda:${device.index}`,
    `${device.name}, compute capability ${device.computeCapability}, ${device.multiprocessors} multiprocessors, ${formatBytes(device.memoryBytes)}`,
  ]);
  return table([
    ['hels', `${hels}, node ${node}`],
    [
      'cpu',
      `${processor.name}, ${processor.threads} threads, ${formatBytes(processor.memoryAvailableBytes)} free`,
    ],
    [
      'kernels',
      `${processor.instructionSet}, ${processor.gemmImplementation}, oneDNN ${processor.oneDnn}`,
    ],
    ...gpus,
    ...(none ? [['cuda', `no GPU: ${cuda.reason ?? 'none was found'}`]] : []),
    ...(cuda.driver === null ? [] : [['driver', `CUDA ${cuda.driver}`]]),
    ...(cuda.runtime === null
      ? []
      : [['built for', `CUDA ${cuda.runtime}, ${cuda.architectures ?? 'no architecture'}`]]),
    ...cuda.libraries.map(({ name, path, problem }) => [name, path ?? problem ?? '']),
  ]);
}
