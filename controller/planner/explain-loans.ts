import type { PlanInput, PlannedBatch, PlanOutput } from '../../proto/domain/plan.ts';
import { largestBatch } from './batch-search.ts';

/** When KV on other ranks than its heads pays. */
export interface LoanExplanation {
  /** The largest batches, each planned anew; null: none fits. */
  readonly withLoans: PlannedBatch | null;
  readonly withoutLoans: PlannedBatch | null;
  readonly text: string;
}

const rate = ({ tokensPerSecond, sequences }: PlannedBatch) =>
  `${sequences} sequences at ${tokensPerSecond.toFixed(0)} tokens/s`;

function textOf(
  context: number,
  withLoans: PlannedBatch | null,
  withoutLoans: PlannedBatch | null,
): string {
  const of = `of ${context} tokens`;
  if (withLoans === null) return `no sequence ${of} fits, with loans or without`;
  if (withoutLoans === null)
    return `only with loans does any sequence ${of} fit: ${rate(withLoans)}`;
  const known = `${rate(withLoans)} with loans, ${rate(withoutLoans)} without`;
  if (withLoans.sequences <= withoutLoans.sequences) {
    return `loans do not pay: as many sequences ${of} fit without them (${known})`;
  }
  const begin = `from ${withoutLoans.sequences + 1} sequences ${of} on KV lies on other ranks`;
  if (withLoans.tokensPerSecond <= withoutLoans.tokensPerSecond) {
    return `${begin}; that holds more sequences but gives no more tokens a second (${known})`;
  }
  return `${begin}, and pays (${known})`;
}

/** Compares the largest batches with and without loans: two bisections of the plan's policy. */
export function explainLoans(input: PlanInput, { policy }: PlanOutput): LoanExplanation {
  const withLoans = largestBatch(input, policy);
  const workload = { ...input.workload, allowRemoteKv: false };
  const withoutLoans = largestBatch({ ...input, workload }, policy);
  return {
    withLoans,
    withoutLoans,
    text: textOf(input.workload.contextTokens, withLoans, withoutLoans),
  };
}
