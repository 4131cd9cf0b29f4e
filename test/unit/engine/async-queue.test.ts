import { describe, expect, it } from 'vitest';
import { AsyncQueue } from '../../../controller/engine/async-queue.ts';

function queueOf(capacity: number) {
  const left: string[] = [];
  return { queue: new AsyncQueue<number>(capacity, () => left.push('left')), left };
}

describe('AsyncQueue', () => {
  it('gives what was pushed before the end, in order, and then is over', async () => {
    const { queue, left } = queueOf(3);
    queue.push(1);
    queue.push(2);
    queue.end();
    queue.push(3);
    const seen: number[] = [];
    for await (const item of queue) seen.push(item);
    expect(seen).toEqual([1, 2]);
    expect(await queue.next()).toEqual({ done: true, value: undefined });
    expect(left).toEqual([]);
  });

  it('hands an item to a reader that waits, past the capacity', async () => {
    const { queue } = queueOf(0);
    const waiting = queue.next();
    queue.push(7);
    expect(await waiting).toEqual({ done: false, value: 7 });
  });

  it('ends a reader that waits', async () => {
    const { queue } = queueOf(1);
    const waiting = queue.next();
    queue.end();
    expect((await waiting).done).toBe(true);
  });

  it('refuses more than its capacity', () => {
    const { queue } = queueOf(2);
    queue.push(1);
    queue.push(2);
    expect(() => queue.push(3)).toThrow('the reader is 2 events behind');
  });

  it('tells once that the reader left, and drops the rest', async () => {
    const { queue, left } = queueOf(4);
    queue.push(1);
    queue.push(2);
    for await (const item of queue) if (item === 1) break;
    expect(left).toEqual(['left']);
    expect((await queue.next()).done).toBe(true);
    expect(() => queue.push(3)).not.toThrow();
  });
});
