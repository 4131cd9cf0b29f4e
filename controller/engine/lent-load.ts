/** What a step sends between ranks about KV on loan: it follows from the step and the loans alone (native/engine/remote_traffic.h). Pure. */
import {
  gpuLoanBlockTokens,
  isGpuLoan,
  type KvResidency,
  loanBlockTokens,
} from '../../proto/domain/kv-residency.ts';
import type { PlanModel } from '../../proto/domain/plan.ts';

/** Of a step: one sequence's tokens [startPosition, + count), count 1 for the token just sampled. */
interface SequencePart {
  readonly takeSampled: boolean;
  readonly tokens: readonly number[];
  readonly startPosition: number;
  readonly blockTable: readonly number[];
}

/** Parts travel as f32; queries, keys and values so, too, but from GPUs in the type of the cache. */
const partElementBytes = 4;

type Shape = Pick<PlanModel, 'layers' | 'queryHeadsPerGroup' | 'headDim' | 'kvBytesPerElement'>;

export interface LentShape extends Shape {
  /** By layer: positions that a row sees, itself included; 0: all. Empty: all layers see all. */
  readonly slidingWindows: readonly number[];
}

/** What one owner has lent to one holder, as layers with this window see it. */
interface Traffic {
  readonly isLent: (address: number) => boolean;
  readonly blockTokens: number;
  readonly chunkTokens: number;
  readonly window: number;
}

/** A chunk on loan, and the rows of one sequence, positions [low, high), that see it. */
type See = (address: number, chunkBegin: number, low: number, high: number) => void;

function visitChunks(
  { takeSampled, tokens, startPosition, blockTable }: SequencePart,
  { isLent, blockTokens, chunkTokens, window }: Traffic,
  see: See,
): void {
  const end = startPosition + (takeSampled ? 1 : tokens.length);
  const firstSeen = window === 0 ? 0 : Math.max(0, startPosition - window + 1);
  for (let block = Math.floor(firstSeen / blockTokens); block * blockTokens < end; block += 1) {
    const address = blockTable[block] ?? -1;
    if (!isLent(address)) continue;
    const blockEnd = (block + 1) * blockTokens;
    for (let begin = block * blockTokens; begin < blockEnd; begin += chunkTokens) {
      const low = Math.max(startPosition, begin);
      const high = window === 0 ? end : Math.min(end, begin + chunkTokens - 1 + window);
      if (low < high) see(address, begin, low, high);
    }
  }
}

/** Of one head group and layer. */
function bytesOf(sequences: readonly SequencePart[], traffic: Traffic, shape: Shape): number {
  const { queryHeadsPerGroup, headDim, kvBytesPerElement } = shape;
  const { blockTokens, chunkTokens } = traffic;
  const isGpu = isGpuLoan(blockTokens);
  const rowElementBytes = isGpu ? kvBytesPerElement : 4;
  const queryBytes = queryHeadsPerGroup * headDim * rowElementBytes;
  const partBytes = queryHeadsPerGroup * (headDim + 2) * partElementBytes;
  const blockBytes = 2 * blockTokens * headDim * kvBytesPerElement;
  // Of all sequences that share a block. GPUs send no blocks whole.
  const rowsOf = new Map<number, number>();
  for (const sequence of isGpu ? [] : sequences) {
    visitChunks(sequence, traffic, (address, _, low, high) =>
      rowsOf.set(address, (rowsOf.get(address) ?? 0) + high - low),
    );
  }
  const goesWhole = (address: number) => (rowsOf.get(address) ?? 0) * partBytes > blockBytes;
  const whole = new Set<number>();
  let bytes = 0;
  for (const sequence of sequences) {
    let [first, end] = [Number.POSITIVE_INFINITY, 0];
    visitChunks(sequence, traffic, (address, begin, low, high) => {
      const stored = Math.max(0, Math.min(high, begin + chunkTokens) - low);
      bytes += stored * 2 * headDim * rowElementBytes;
      if (goesWhole(address)) {
        whole.add(address);
        return;
      }
      bytes += (high - low) * partBytes;
      [first, end] = [Math.min(first, low), Math.max(end, high)];
    });
    // From the first to the last row that sees one of its chunks there.
    bytes += Math.max(0, end - first) * queryBytes;
  }
  return bytes + whole.size * blockBytes;
}

/** How many layers have each window. */
function layersByWindow({ layers, slidingWindows }: LentShape): Map<number, number> {
  if (slidingWindows.length === 0) return new Map([[0, layers]]);
  const counts = new Map<number, number>();
  for (const window of slidingWindows) counts.set(window, (counts.get(window) ?? 0) + 1);
  return counts;
}

/** Bytes by rank that it sends and receives as owner and holder, all layers; null when the step touches no block on loan. */
export function lentBytesOf(
  sequences: readonly SequencePart[],
  { loans, kvBlockTokens }: KvResidency,
  headGroups: readonly number[],
  shape: LentShape,
): number[] | null {
  if (loans.length === 0) return null;
  const bytes = headGroups.map(() => 0);
  const chunkTokens = isGpuLoan(kvBlockTokens) ? gpuLoanBlockTokens : loanBlockTokens;
  for (const { owner, holder, blocks } of loans) {
    const isLent = (address: number) => address >= blocks.begin && address < blocks.end;
    for (const [window, layers] of layersByWindow(shape)) {
      const traffic = { isLent, blockTokens: kvBlockTokens, chunkTokens, window };
      const all = layers * (headGroups[owner] ?? 0) * bytesOf(sequences, traffic, shape);
      for (const end of [owner, holder]) bytes[end] = (bytes[end] ?? 0) + all;
    }
  }
  return bytes.some((count) => count > 0) ? bytes : null;
}
