/** What a worker makes of a KvMigration: the engine's words, or a refusal that names the field. */
import { describe, expect, it } from 'vitest';
import type { KvMigration__Output } from '../../../proto/gen/hels/v1/KvMigration.ts';
import type { Range__Output } from '../../../proto/gen/hels/v1/Range.ts';
import type { ShardPlan__Output } from '../../../proto/gen/hels/v1/ShardPlan.ts';
import { migrationOf } from '../../../worker/daemon/migration.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const range = (begin: number, end: number): Range__Output => ({ begin, end });
const previous = [range(0, 2), range(2, 2), range(2, 4)];
const blocks = [range(0, 3), range(5, 8)];

/** The model has four head groups. */
const plan = shardPlan([
  { workerId: 'a', headGroups: [0, 1] },
  { workerId: 'b', headGroups: [1, 4] },
  { workerId: 'c', headGroups: [4, 4] },
]);

const translate = (
  message: Partial<KvMigration__Output> = {},
  changes: Partial<ShardPlan__Output> = {},
  rank = 0,
  kept = { kvKept: true, kvLoansKept: true },
) =>
  migrationOf(
    { previousHeadGroups: previous, previousLoans: [], blocks, parked: [], ...message },
    { plan: { ...plan, ...changes }, rank, ...kept },
    700,
  );

const refused = (field: string, text: string, body: () => unknown) =>
  expect(body).toThrow(
    expect.objectContaining({
      code: 'request-invalid',
      field,
      message: expect.stringContaining(text),
    }),
  );

describe('a migration', () => {
  it('goes to the engine with the ranges of the plan', () => {
    expect(translate()).toEqual({
      previousHeadGroups: previous,
      headGroups: [range(0, 1), range(1, 4), range(4, 4)],
      previousLoans: [],
      blocks,
      parked: [],
      deadlineMs: 700,
    });
  });

  it('may move nothing, and may name the ranks of before in any order', () => {
    expect(translate({ blocks: [] }).blocks).toEqual([]);
    const swapped = [range(2, 4), range(0, 2), range(0, 0)];
    expect(translate({ previousHeadGroups: swapped }).previousHeadGroups).toEqual(swapped);
  });

  it('is no matter of what a rank without KV from before has kept', () => {
    const none = { kvKept: false, kvLoansKept: false };
    expect(translate({}, {}, 1, none).previousHeadGroups).toEqual(previous);
    refused('migration.previous_head_groups', 'gives rank 0 [0, 2)', () =>
      translate({}, {}, 0, none),
    );
  });

  it.each([
    ['has 2 entries; the plan has 3 ranks', [range(0, 2), range(2, 4)]],
    ['is [0, 2), [2, 2), [3, 4); together', [range(0, 2), range(2, 2), range(3, 4)]],
    ['together they must be [0, 4)', [range(0, 2), range(1, 2), range(2, 4)]],
    ['together they must be [0, 4)', [range(0, 2), range(2, 4), range(4, 5)]],
    ['together they must be [0, 4)', [range(0, 4), range(0, 4), range(0, 0)]],
    ['together they must be [0, 4)', [range(0, 0), range(0, 0), range(0, 0)]],
    ['together they must be [0, 4)', [range(0, 4), range(4, 2), range(2, 4)]],
  ])('is refused when its head groups are not all, each once: %s', (text, previousHeadGroups) => {
    refused('migration.previous_head_groups', text, () => translate({ previousHeadGroups }));
  });

  it.each([
    ['migration.blocks[0]', 'is [2, 2); it must be a range, not empty', [range(2, 2)]],
    ['migration.blocks[1]', 'is [2, 4); it must be', [range(0, 3), range(2, 4)]],
    ['migration.blocks[1]', 'within [3, 8)', [range(0, 3), range(4, 9)]],
  ])('is refused when addresses do not ascend or are not there: %s %s', (field, text, wrong) => {
    refused(field, text, () => translate({ blocks: wrong }));
  });

  it('moves parked blocks to addresses that the plan has, each once', () => {
    const parking = { kvParkedBlocks: 3 };
    const parked = [
      { from: 70, to: 10 },
      { from: 71, to: 8 },
    ];
    expect(translate({ parked }, parking).parked).toEqual(parked);
    for (const to of [7, 10, 11]) {
      const wrong = [
        { from: 70, to: 10 },
        { from: 71, to },
      ];
      refused(
        'migration.parked[1].to',
        `is ${to}; it must be a parked address, within [8, 11), and named once`,
        () => translate({ parked: wrong }, parking),
      );
    }
  });

  it('names the loans of before with the heads of their owners, and only of ranks that have kept them', () => {
    const previousLoans = [{ owner: 2, holder: 1, blocks: range(6, 8) }];
    expect(translate({ previousLoans }).previousLoans).toEqual([
      { owner: 2, holder: 1, blocks: range(6, 8), headGroups: range(2, 4) },
    ]);
    const ownOnly = { kvKept: true, kvLoansKept: false };
    expect(translate({ previousLoans }, {}, 2, ownOnly).previousLoans).toHaveLength(1);
    const at = 'migration.previous_loans';
    refused(`${at}[0]`, 'lies with rank 1; this worker has kept nothing', () =>
      translate({ previousLoans }, {}, 1, ownOnly),
    );
    for (const [owner, holder] of [
      [1, 1],
      [3, 0],
      [0, -1],
    ] as const) {
      refused(
        `${at}[0]`,
        `is of rank ${owner} with rank ${holder}; they must be two ranks from 0 to 2`,
        () => translate({ previousLoans: [{ owner, holder, blocks: range(6, 8) }] }),
      );
    }
    refused(at, 'has 4097 entries; at most 4096', () =>
      translate({ previousLoans: Array.from({ length: 4097 }, () => previousLoans[0] as never) }),
    );
  });
});
