import type { PlanInput, PlannedBatch, PlanOutput } from '../../proto/domain/plan.ts';
import { largestBatch, smallestBatch } from './batch-search.ts';

/** When KV on other ranks than its heads pays. */
export interface LoanExplanation {
  /** The largest batches, each planned anew; null: none fits. */
  readonly withLoans: PlannedBatch | null;
  readonly withoutLoans: PlannedBatch | null;
  /** The smallest batch on loan that generates more tokens a second than any without loans that fits; null: none does. */
  readonly paysFrom: PlannedBatch | null;
  readonly text: string;
}

const rate = ({ tokensPerSecond, sequences }: PlannedBatch) =>
  `${sequences} sequences at ${tokensPerSecond.toFixed(0)} tokens/s`;

type Batches = Omit<LoanExplanation, 'text'>;

function textOf(context: number, { withLoans, withoutLoans, paysFrom }: Batches): string {
  const of = `of ${context} tokens`;
  if (withLoans === null) return `no sequence ${of} fits, with loans or without`;
  if (withoutLoans === null) {
    return `only with loans does any sequence ${of} fit: ${rate(withLoans)}`;
  }
  const known = `${rate(withLoans)} with loans, ${rate(withoutLoans)} without`;
  if (withLoans.sequences <= withoutLoans.sequences) {
    return `loans do not pay: as many sequences ${of} fit without them (${known})`;
  }
  const begin = `from ${withoutLoans.sequences + 1} sequences ${of} on KV lies on other ranks`;
  if (paysFrom === null) {
    return `${begin}; that holds more sequences but gives no more tokens a second (${known})`;
  }
  return `${begin}, and pays from ${paysFrom.sequences} on (${rate(paysFrom)}; at most ${known})`;
}

function batchesOf(input: PlanInput, { policy }: PlanOutput): Batches {
  const allowing = (allowRemoteKv: boolean) => ({
    ...input,
    workload: { ...input.workload, allowRemoteKv },
  });
  const withLoans = largestBatch(allowing(true), policy);
  const withoutLoans = largestBatch(allowing(false), policy);
  if (withoutLoans === null) return { withLoans, withoutLoans, paysFrom: withLoans };
  const { sequences, tokensPerSecond } = withoutLoans;
  const enough = tokensPerSecond * (1 + gainMin);
  const paysFrom = smallestBatch(allowing(true), policy, enough, sequences);
  return { withLoans, withoutLoans, paysFrom };
}

/** A smaller gain is rounding. */
const gainMin = 1e-9;

/** Without the permission to lend, what it would give is told of clusters of up to so many devices: it is some dozen plans. */
const unaskedDevicesMax = 64;

/** Compares batches with and without loans, planned by the plan's policy; null: loans are neither allowed nor would they pay. */
export function explainLoans(input: PlanInput, plan: PlanOutput): LoanExplanation | null {
  const { allowRemoteKv, contextTokens } = input.workload;
  if (allowRemoteKv === true) {
    const batches = batchesOf(input, plan);
    return { ...batches, text: textOf(contextTokens, batches) };
  }
  const { length } = input.devices;
  const cheap = length <= unaskedDevicesMax && plan.policy !== 'optimal';
  if (input.objective !== 'lockstep' || length < 2 || !cheap) return null;
  const batches = batchesOf(input, plan);
  const { paysFrom } = batches;
  if (paysFrom === null) return null;
  const known = textOf(contextTokens, batches);
  const text = `with allowRemoteKv, KV on other ranks would pay from ${paysFrom.sequences} sequences on: ${known}`;
  return { ...batches, text };
}
