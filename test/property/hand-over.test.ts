/** A re-plan in mid-stream: whatever the old and the new plan hold, whatever is under way, the text is that of an undisturbed run. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SchedulerLimits } from '../../controller/scheduler/scheduler.ts';
import { hashVocabRows } from '../support/kv-hash-rank.ts';
import { propertyDeadlineMs, propertyRuns } from '../support/property-runs.ts';
import {
  type Action,
  checkEmpty,
  finish,
  play,
  prefixHashes,
  World,
} from '../support/scheduler-world.ts';

const token = fc.nat({ max: hashVocabRows - 1 });
const text = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];
const prompt = fc
  .tuple(fc.nat({ max: 11 }), fc.array(token, { maxLength: 4 }))
  .map(([shared, own]) => [...text.slice(0, shared), ...own])
  .filter(({ length }) => length > 0);
const of = <Type extends string>(type: Type) => fc.constant(type);

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      type: of('add'),
      prompt,
      maxTokens: fc.integer({ min: 1, max: 16 }),
      stop: fc.array(token, { maxLength: 2 }),
      salt: fc.constantFrom('', '', null),
      priority: fc.constantFrom(0, 0, 0, -1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: of('cancel'), which: fc.nat() }) },
  { weight: 6, arbitrary: fc.record({ type: of('schedule') }) },
  { weight: 3, arbitrary: fc.record({ type: of('run'), rank: fc.nat({ max: 1 }) }) },
  { weight: 5, arbitrary: fc.record({ type: of('answer') }) },
);

const blockTokens = fc.integer({ min: 1, max: 3 });
/** What deployments may choose for KV that runs out; mostly the parts of it that lose least. */
const policy: fc.Arbitrary<Partial<SchedulerLimits>> = fc.constantFrom(
  ...[{}, {}, { replaysWhole: true }],
  ...[{ reserveTokens: 1 }, { reserveTokens: 7 }],
);

const limitsOver = (kvBlockTokens: fc.Arbitrary<number>): fc.Arbitrary<SchedulerLimits> =>
  fc.tuple(roomOver(kvBlockTokens), policy).map(([room, choice]) => ({ ...room, ...choice }));

const roomOver = (kvBlockTokens: fc.Arbitrary<number>): fc.Arbitrary<SchedulerLimits> =>
  fc.record({
    // The longest request fits, whatever the block. After the large ones much is held that the next may have no room for.
    kvBlocks: fc.oneof(fc.integer({ min: 32, max: 40 }), fc.integer({ min: 32, max: 120 })),
    kvBlockTokens,
    stepTokensMax: fc.integer({ min: 5, max: 16 }),
    sequencesMax: fc.integer({ min: 1, max: 5 }),
    contextTokensMax: fc.constant(32),
    waitingMax: fc.integer({ min: 1, max: 6 }),
    parking: fc.record({
      blocks: fc.nat({ max: 6 }),
      movesPerStepMax: fc.integer({ min: 1, max: 3 }),
    }),
  });

/** Most have room for about one and a half of the longest requests: somebody always has to give way. */
const tight = ({ kvBlocks, ...limits }: SchedulerLimits): SchedulerLimits => ({
  ...limits,
  kvBlocks: Math.ceil(kvBlocks / limits.kvBlockTokens),
});

/** Of a rank's device: some have room for parked blocks too. */
const room = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 130 }));
const addressesOf = ({ kvBlocks, parking }: SchedulerLimits) => kvBlocks + (parking?.blocks ?? 0);
const localOf = ({ limits, deviceBlocks }: Plan) =>
  Math.min(limits.kvBlocks, ...(deviceBlocks ?? []));

interface Plan {
  readonly limits: SchedulerLimits;
  /** By rank; null: all addresses lie at home. */
  readonly deviceBlocks: readonly number[] | null;
  readonly actions: readonly Action[];
}

const actions = fc.array(action, { maxLength: 120, size: 'max' });
const epochs = (kvBlockTokens: fc.Arbitrary<number>, isLocal = true): fc.Arbitrary<Plan[]> =>
  fc.array(
    fc
      .tuple(limitsOver(kvBlockTokens).map(tight), actions, fc.tuple(room, room))
      .map(([limits, list, shares]) => ({
        limits,
        actions: list,
        deviceBlocks: isLocal ? null : shares.map((own) => Math.min(own, addressesOf(limits))),
      })),
    { minLength: 2, maxLength: 5, size: 'max' },
  );

/** Where room is set aside for all of a sequence. */
function checkNobodyGaveWay({ scheduler }: World, { reserveTokens }: SchedulerLimits): void {
  if (reserveTokens !== undefined) expect(scheduler.counts.preempted).toBe(0);
}

function run(plans: readonly Plan[], keptOf: (former: Plan, next: Plan) => number): World {
  const [first, ...others] = plans;
  if (first === undefined) throw new Error('no epoch');
  const world = new World(first.limits, prefixHashes.good, first.deviceBlocks);
  play(world, first.actions, 2);
  let former = first;
  for (const next of others) {
    checkNobodyGaveWay(world, former.limits);
    world.rebase(next.limits, keptOf(former, next), next.deviceBlocks);
    play(world, next.actions, 2);
    former = next;
  }
  finish(world, 2);
  checkNobodyGaveWay(world, former.limits);
  checkEmpty(world, former.limits);
  return world;
}

const atHome = (former: Plan, next: Plan) => Math.min(localOf(former), localOf(next));

describe('sequences that go to another epoch', () => {
  it(
    'are computed again where nothing stays, also when steps under way are lost',
    () => {
      let again = 0;
      fc.assert(
        fc.property(epochs(blockTokens), (plans) => {
          again += run(plans, () => 0).scheduler.counts.recomputedTokens;
        }),
        { numRuns: propertyRuns(150) },
      );
      expect(again).toBeGreaterThan(100);
    },
    propertyDeadlineMs(60_000),
  );

  it.each([
    ['at home', true],
    ['lent in part', false],
  ])(
    'go on from the KV that stays, and lose only what lies beyond it: %s',
    (_, isLocal) => {
      let computed = 0;
      let kept = 0;
      let parked = 0;
      fc.assert(
        fc.property(
          blockTokens.chain((tokens) => epochs(fc.constant(tokens), isLocal)),
          (plans) => {
            const world = run(plans, atHome);
            kept += world.computedTokens;
            parked += world.keptParked;
            computed += run(plans, () => 0).computedTokens;
          },
        ),
        { numRuns: propertyRuns(400) },
      );
      // Otherwise keeping would not be worth its trouble.
      expect(kept).toBeLessThan(computed);
      expect(parked).toBeGreaterThan(0);
    },
    propertyDeadlineMs(60_000),
  );

  it('show KV that is believed to stay and does not: the checks above can fail', () => {
    const limits = { kvBlocks: 20, kvBlockTokens: 2, stepTokensMax: 8, sequencesMax: 2 };
    const all = { ...limits, contextTokensMax: 32, waitingMax: 4 };
    const world = new World(all);
    world.add([3, 1, 4, 1, 5], 8, []);
    for (let step = 0; step < 3; step += 1) {
      world.schedule();
      world.answer();
    }
    world.rebase(all, 1);
    // One block stays; a scheduler that is told of all of them reads what is not there.
    const other = new World(all);
    other.add([3, 1, 4, 1, 5], 8, []);
    for (let step = 0; step < 3; step += 1) {
      other.schedule();
      other.answer();
    }
    other.rebase(all, 20, null, 1);
    finish(world, 2);
    expect(() => finish(other, 2)).toThrow();
  });
});
