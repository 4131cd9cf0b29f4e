/** Moves over workers and an engine that only note what is asked of them. */
import { describe, expect, it } from 'vitest';
import type { LoadedGroup } from '../../../controller/deployment/deployment-run.ts';
import type { EngineGroup } from '../../../controller/deployment/engine-group.ts';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import type { HeldEpochs } from '../../../controller/deployment/load-plan.ts';
import { ReplanLog } from '../../../controller/deployment/replan-log.ts';
import type { Proposal } from '../../../controller/deployment/replan-proposal.ts';
import { Replanning } from '../../../controller/deployment/replanning.ts';
import type { HeldKv, KeptRoom } from '../../../controller/scheduler/hand-over.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { loaded, propose } from './replan-setting.ts';

const holding = (blocks: number[], computed: number): HeldKv => ({
  blocks,
  computed,
  parked: [],
  parkedFrom: blocks.length,
});
const never = new Promise<never>(() => undefined);
const result = { collectiveAddress: '', weightBytesLoaded: 8, weightBytesAdopted: 2, seconds: 1 };

function setUp(changed: Partial<Proposal> = {}, usedBefore: string[] = ['a']) {
  const asked: string[] = [];
  const prepares = new Map<string, () => Promise<unknown>>();
  const worker = (id: string) =>
    ({
      id,
      incarnation: `${id}1`,
      device: { kind: 'cpu' },
      client: {
        prepare: ({ fence }: { fence: { epoch: number } }) => {
          asked.push(`${id} prepare ${fence.epoch}`);
          const prepare = prepares.get(`${id}${fence.epoch}`);
          return prepare?.() ?? Promise.resolve({ ...result, kvKept: true });
        },
        connect: () =>
          Promise.resolve({ fingerprint: 'f', migrationSeconds: 0, migrationBytes: 5 }),
        release: ({ epoch }: { epoch: number }) => {
          asked.push(`${id} release ${epoch}`);
          return Promise.resolve();
        },
      },
    }) as unknown as GroupWorker;
  const [a, b] = [worker('a'), worker('b')];
  const alone = propose({ ranks: [{ workerId: 'a', headGroups: 4, ffnWeight: 1 }] });
  const from: LoadedGroup = {
    ...loaded,
    ...alone.made,
    shardPlan: { ...alone.made.shardPlan, epoch: 1 },
    candidates: [a, b],
    workers: [a, b].filter(({ id }) => usedBefore.includes(id)),
    prepared: [],
  };
  const proposal = { ...propose({}, { loaded: from, available: [a, b] }), ...changed };
  const engine = {
    pause: () => Promise.resolve(),
    kvInUse: () => [holding([0, 1], 20), holding([2], 7)],
    rebase: (_: LoadedGroup, { blocks }: KeptRoom) => Promise.resolve(blocks > 0 ? 3 : 27),
  } as unknown as EngineGroup;
  const log = new ReplanLog(() => undefined, {
    replanned: () => undefined,
    replanFailed: () => undefined,
  });
  const held: HeldEpochs = new Map([['a', 1]]);
  const clock = { nowMs: () => 0, unixMs: () => 0 };
  const replanning = new Replanning(proposal, 'operator', log, {
    from,
    engine,
    held,
    term: 1,
    clock,
  });
  return { asked, prepares, replanning, log, held };
}

describe('a re-plan', () => {
  it('tells what is computed again, also when KV moves', async () => {
    const { replanning, log, asked } = setUp();
    const moved = await replanning.move(
      2,
      false,
      () => undefined,
      () => undefined,
    );
    expect(moved.workers.map(({ id }) => id)).toEqual(['a', 'b']);
    replanning.served();
    const counts = { kv: log.last?.kv, again: log.last?.replayedTokens, of: log.last?.sequences };
    expect(counts).toEqual({ kv: 'migrated', again: 3, of: 2 });
    expect(asked).toEqual(['a prepare 2', 'b prepare 2']);
  });

  it('goes back without asking the store, and frees one that still loads for the dropped plan', async () => {
    const { replanning, prepares, asked, log } = setUp();
    prepares.set('b2', () => never);
    prepares.set('a2', () => Promise.reject(new HelsError('internal', 'no memory')));
    const stored: number[] = [];
    const move = (epoch: number, back: boolean) =>
      replanning.move(
        epoch,
        back,
        () => undefined,
        (plan) => stored.push(plan.epoch),
      );
    await expect(move(2, false)).rejects.toThrow('no memory');
    replanning.undo(new HelsError('internal', 'no memory'));
    const { workers } = await move(3, true);
    expect(workers.map(({ id }) => id)).toEqual(['a']);
    replanning.served();
    expect(stored).toEqual([3]);
    expect(asked).toEqual(['a prepare 2', 'b prepare 2', 'a prepare 3', 'b release 3']);
    expect(log.trouble).toBe(3);
  });

  it('says what a step should take, and without whom', () => {
    expect(setUp().replanning.reason).toMatch(/^a decode step should take .* ms instead of .* ms$/);
    const workers = [{ id: 'a' } as GroupWorker];
    const drained = { workers, currentSeconds: Number.POSITIVE_INFINITY, plannedSeconds: 0.00537 };
    expect(setUp(drained, ['a', 'b']).replanning.reason).toBe('decode step without b: 5.4 ms');
  });

  it('that fails says in which epoch', async () => {
    const { replanning, log } = setUp();
    replanning.failed(new HelsError('worker-lost', 'gone'));
    expect(log.trouble).toBe(1);
  });
});
