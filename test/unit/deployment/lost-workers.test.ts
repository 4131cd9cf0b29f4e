/** Who counts as there when an epoch begins, and who is waited for when one ends. */
import { describe, expect, it } from 'vitest';
import { type Attempt, closeAttempt } from '../../../controller/deployment/attempt.ts';
import { workersThere } from '../../../controller/deployment/deployment-run.ts';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

const fence = { term: 1, epoch: 2 };

type Release = () => Promise<void>;
const answers: Release = async () => undefined;
const refuses: Release = () => Promise.reject(new HelsError('unreachable', 'nothing answers'));
const isLate: Release = () => Promise.reject(new HelsError('deadline-exceeded', 'no answer'));

function site() {
  const released: string[] = [];
  const workerOf = (id: string, release: Release, incarnation = `${id}1`) =>
    ({
      ...{ id, incarnation, address: `${id}:1` },
      client: {
        release: async () => {
          released.push(incarnation);
          await release();
        },
      },
    }) as unknown as GroupWorker;
  return { released, workerOf };
}

describe('the workers that a plan can count on', () => {
  /** `rounds`: who is available, each time that somebody asks. */
  async function there(rounds: GroupWorker[][]) {
    const unreachable: string[] = [];
    let asked = 0;
    const workers = await workersThere(1, fence, {
      workers: async () => rounds[asked++] ?? [],
      unreachable: (those) => void unreachable.push(...those.map(({ id }) => id)),
    });
    return { ids: workers.map(({ incarnation }) => incarnation), unreachable, asked };
  }

  it('are all that answer; what they hold is freed', async () => {
    const { released, workerOf } = site();
    const found = await there([[workerOf('a', answers), workerOf('b', answers)]]);
    expect(found).toEqual({ ids: ['a1', 'b1'], unreachable: [], asked: 1 });
    expect(released).toEqual(['a1', 'b1']);
  });

  it('are asked for again when one is dead; whoever is new then frees what it holds', async () => {
    const { released, workerOf } = site();
    const a = workerOf('a', answers);
    const found = await there([
      [a, workerOf('b', refuses)],
      [a, workerOf('b', answers, 'b2')],
    ]);
    expect(found).toEqual({ ids: ['a1', 'b2'], unreachable: ['b'], asked: 2 });
    expect(released).toEqual(['a1', 'b1', 'b2']);
  });

  it('are those that live by their heartbeats, though one is busy loading what nobody wants any more', async () => {
    const { released, workerOf } = site();
    const both = [workerOf('a', answers), workerOf('b', isLate)];
    const found = await there([both, both]);
    expect(found).toEqual({ ids: ['a1', 'b1'], unreachable: [], asked: 2 });
    expect(released).toEqual(['a1', 'b1']);
  });
});

describe('the end of an attempt', () => {
  const never: Release = () => new Promise(() => undefined);
  const error = new HelsError('worker-lost', 'gone');

  function attemptOf(chosen: GroupWorker[], closed: string[]): Attempt {
    return {
      ...{ epoch: 2, replanning: null, loaded: null, chosen },
      engineGroup: { close: async ({ message }: HelsError) => void closed.push(message) },
      files: { text: { close: async () => void closed.push('text') } },
    } as unknown as Attempt;
  }

  it('ends its requests, frees what all hold, and waits for nobody who was lost', async () => {
    const { released, workerOf } = site();
    const a = workerOf('a', answers);
    const closed: string[] = [];
    await closeAttempt(attemptOf([a, workerOf('b', never)], closed), error, 1, [a]);
    expect(released.sort()).toEqual(['a1', 'b1']);
    expect(closed).toEqual(['gone', 'text']);
  });

  it('does not wait for the former life of one that has started again', async () => {
    const { released, workerOf } = site();
    const again = workerOf('b', answers, 'b2');
    await closeAttempt(attemptOf([workerOf('b', never)], []), error, 1, [again]);
    expect(released).toEqual(['b1']);
  });
});
