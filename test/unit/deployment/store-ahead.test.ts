import { describe, expect, it } from 'vitest';
import { refuseLost, storeAhead } from '../../../controller/deployment/store-ahead.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const ranks = [{ workerId: 'a', headGroups: [0, 8] as [number, number] }];
const current = shardPlan(ranks, { epoch: 1, kvBlocks: 8 });
const next = shardPlan(ranks, { epoch: 2, kvBlocks: 6 });

function storing(savePlan: () => Promise<void>, begin: () => string = () => 'begun') {
  const log: string[] = [];
  const engine = { reserve: ({ kvBlocks }: { kvBlocks: number }) => void log.push(`${kvBlocks}`) };
  const save = () => {
    log.push('save');
    return savePlan();
  };
  return { log, done: storeAhead({ engine, current, next, savePlan: save, begin }) };
}

describe('the plan of a re-plan', () => {
  it('is stored before anything stops, while only requests are taken that fit both', async () => {
    const { log, done } = storing(() => Promise.resolve());
    expect(await done).toBe('begun');
    expect(log).toEqual(['6', 'save']);
  });

  it('changes nothing when it cannot be stored', async () => {
    const { log, done } = storing(() =>
      Promise.reject(new HelsError('unreachable', 'no answer from etcd')),
    );
    await expect(done).rejects.toMatchObject({
      code: 'unreachable',
      message: 'the new plan could not be stored: no answer from etcd',
    });
    expect(log).toEqual(['6', 'save', '8']);
  });

  it('changes nothing when it cannot begin: what it should follow has ended meanwhile', async () => {
    const { log, done } = storing(
      () => Promise.resolve(),
      () => {
        throw new HelsError('not-ready', 'over');
      },
    );
    await expect(done).rejects.toMatchObject({ code: 'not-ready', message: 'over' });
    expect(log).toEqual(['6', 'save', '8']);
  });

  it('is not begun without its workers', () => {
    const a = { id: 'a', incarnation: 'a1' };
    const b = { id: 'b', incarnation: 'b1' };
    expect(() => refuseLost([a, b], [b, a])).not.toThrow();
    const restarted = [a, { id: 'b', incarnation: 'b2' }];
    expect(() => refuseLost([a, b], restarted)).toThrow("worker 'b' of the new plan was lost");
    expect(() => refuseLost([a, b], [a])).toThrow(expect.objectContaining({ code: 'worker-lost' }));
  });
});
