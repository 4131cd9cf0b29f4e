/** KvMigration of proto/hels/v1/worker.proto, checked against the plan that it leads to, in the engine's words. Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import { type KvMove, type KvResidency, loansMax } from '../../proto/domain/kv-residency.ts';
import type { KvMigration__Output } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { KvLoan, KvMigration, Range } from '../binding/engine-types.ts';
import { checkedResidency, rangeOf, required } from './wire.ts';

/** The side of a Connect that the worker knows. */
export interface MigrationTarget {
  plan: ShardPlan__Output;
  rank: number;
  /** Whether KV of the epoch before is here. */
  kvKept: boolean;
  /** Whether what it held of others' heads is here, too. */
  kvLoansKept: boolean;
}

const rangesField = 'migration.previous_head_groups';

const show = ({ begin, end }: Range) => `[${begin}, ${end})`;

function refuse(field: string, message: string): never {
  throw new HelsError('request-invalid', `${field} ${message}`, { field });
}

/** Throws request-invalid naming the field when the migration does not fit the plan or what this worker has kept. */
export function migrationOf(
  message: KvMigration__Output,
  target: MigrationTarget,
  deadlineMs: number,
): KvMigration {
  const { plan, rank } = target;
  const previousHeadGroups = message.previousHeadGroups.map(rangeOf);
  checkCover(previousHeadGroups, plan);
  const own = required(previousHeadGroups[rank], rangesField);
  if (own.begin < own.end && !target.kvKept) {
    refuse(rangesField, `gives rank ${rank} ${show(own)}; this worker has kept no KV`);
  }
  const residency = checkedResidency(plan);
  const previousLoans = previousLoansOf(message, previousHeadGroups, target);
  const blocks = message.blocks.map(rangeOf);
  checkBlocks(blocks, residency.kvBlocks);
  const parked = message.parked.map(({ from, to }) => ({ from, to }));
  checkParked(parked, residency);
  const headGroups = plan.ranks.map((_, index) =>
    rangeOf(plan.ranks.find((candidate) => candidate.rank === index)?.headGroups ?? null),
  );
  return { previousHeadGroups, headGroups, previousLoans, blocks, parked, deadlineMs };
}

/** One range for each rank, together all head groups, each once. */
function checkCover(ranges: readonly Range[], plan: ShardPlan__Output): void {
  if (ranges.length !== plan.ranks.length) {
    refuse(rangesField, `has ${ranges.length} entries; the plan has ${plan.ranks.length} ranks`);
  }
  const { headGroups } = required(plan.model, 'plan.model');
  const held = ranges
    .filter(({ begin, end }) => begin !== end)
    .sort((left, right) => left.begin - right.begin);
  let next = 0;
  for (const { begin, end } of held) {
    if (begin !== next || end < begin) {
      next = -1;
      break;
    }
    next = end;
  }
  if (next !== headGroups) {
    refuse(
      rangesField,
      `is ${ranges.map(show).join(', ')}; together they must be [0, ${headGroups}), each head group once`,
    );
  }
}

/** With the head groups of their owners. What was lent and held here the engine knows. */
function previousLoansOf(
  { previousLoans }: KvMigration__Output,
  previousHeadGroups: readonly Range[],
  { rank, kvLoansKept }: MigrationTarget,
): KvLoan[] {
  const field = 'migration.previous_loans';
  if (previousLoans.length > loansMax) {
    refuse(field, `has ${previousLoans.length} entries; at most ${loansMax} are taken`);
  }
  return previousLoans.map(({ owner, holder, blocks }, index) => {
    const headGroups = previousHeadGroups[owner];
    const at = `${field}[${index}]`;
    if (headGroups === undefined || previousHeadGroups[holder] === undefined || owner === holder) {
      const last = previousHeadGroups.length - 1;
      refuse(
        at,
        `is of rank ${owner} with rank ${holder}; they must be two ranks from 0 to ${last}`,
      );
    }
    if (holder === rank && !kvLoansKept) {
      refuse(at, `lies with rank ${rank}; this worker has kept nothing of others' heads`);
    }
    return { owner, holder, blocks: rangeOf(blocks), headGroups };
  });
}

/** Where they come from the engine knows. */
function checkParked(parked: readonly KvMove[], { kvBlocks, kvParkedBlocks }: KvResidency): void {
  const end = kvBlocks + kvParkedBlocks;
  const taken = new Set<number>();
  for (const [index, { to }] of parked.entries()) {
    if (to < kvBlocks || to >= end || taken.has(to)) {
      refuse(
        `migration.parked[${index}].to`,
        `is ${to}; it must be a parked address, within [${kvBlocks}, ${end}), and named once`,
      );
    }
    taken.add(to);
  }
}

function checkBlocks(blocks: readonly Range[], addresses: number): void {
  let next = 0;
  for (const [index, range] of blocks.entries()) {
    if (range.begin < next || range.end <= range.begin || range.end > addresses) {
      refuse(
        `migration.blocks[${index}]`,
        `is ${show(range)}; it must be a range, not empty, within [${next}, ${addresses})`,
      );
    }
    next = range.end;
  }
}
