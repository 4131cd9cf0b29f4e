/** What a step sends between ranks about KV on loan: it follows from the step and the loans alone (native/engine/remote_traffic.h). Pure. */
import { gpuLoanBlockTokens, type KvResidency } from '../../proto/domain/kv-residency.ts';
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

/** Of one head group and layer: bytes of one sequence's rows to the holder of some of its blocks and back. */
function bytesOfSequence(
  { takeSampled, tokens, startPosition, blockTable }: SequencePart,
  isLent: (address: number) => boolean,
  blockTokens: number,
  { queryHeadsPerGroup, headDim, kvBytesPerElement }: Shape,
): number {
  const lent = blockTable.filter(isLent).length;
  if (lent === 0) return 0;
  const rows = takeSampled ? 1 : tokens.length;
  let stored = 0;
  for (let position = startPosition; position < startPosition + rows; position += 1) {
    if (isLent(blockTable[Math.floor(position / blockTokens)] ?? -1)) stored += 1;
  }
  const isGpu = blockTokens % gpuLoanBlockTokens === 0;
  const rowElementBytes = isGpu ? kvBytesPerElement : 4;
  const queries = rows * queryHeadsPerGroup * headDim * rowElementBytes;
  const fresh = stored * 2 * headDim * rowElementBytes;
  const parts = rows * queryHeadsPerGroup * (headDim + 2) * partElementBytes;
  // GPUs send no blocks whole.
  const whole = isGpu ? Number.POSITIVE_INFINITY : 2 * blockTokens * headDim * kvBytesPerElement;
  return queries + fresh + lent * Math.min(parts, whole);
}

/** Bytes by rank that it sends and receives as owner and holder, all layers; null when the step touches no block on loan. */
export function lentBytesOf(
  sequences: readonly SequencePart[],
  residency: KvResidency,
  headGroups: readonly number[],
  shape: Shape,
): number[] | null {
  if (residency.loans.length === 0) return null;
  const bytes = headGroups.map(() => 0);
  for (const { owner, holder, blocks } of residency.loans) {
    const isLent = (address: number) => address >= blocks.begin && address < blocks.end;
    const each = sequences.reduce(
      (sum, part) => sum + bytesOfSequence(part, isLent, residency.kvBlockTokens, shape),
      0,
    );
    const all = shape.layers * (headGroups[owner] ?? 0) * each;
    for (const end of [owner, holder]) bytes[end] = (bytes[end] ?? 0) + all;
  }
  return bytes.some((count) => count > 0) ? bytes : null;
}
