import { setImmediate as turn } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { merge } from '../../../controller/api/http/merge.ts';

/** Gives 0 to count - 1; `ended` says that it was left or came to its end. */
function counting(count: number) {
  const source = {
    ended: false,
    async *[Symbol.asyncIterator]() {
      try {
        for (let item = 0; item < count; item += 1) {
          await turn();
          yield item;
        }
      } finally {
        source.ended = true;
      }
    },
  };
  return source;
}

function waiting() {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const source = {
    release: () => release(),
    async *[Symbol.asyncIterator]() {
      await released;
      yield -1;
    },
  };
  return source;
}

const failing: AsyncIterable<number> = {
  [Symbol.asyncIterator]: () => ({ next: () => turn().then(() => Promise.reject(broken)) }),
};
const broken = new Error('broken');

it('gives all items of all sources, those of one in order', async () => {
  const counts = [3, 0, 5, 1];
  const items: number[][] = counts.map(() => []);
  for await (const { index, item } of merge(counts.map(counting))) items[index]?.push(item);
  expect(items).toEqual(counts.map((count) => Array.from({ length: count }, (_, item) => item)));
});

/** How many reactions promises were given meanwhile, those of `await` left out. */
async function reactionsDuring(work: () => Promise<void>): Promise<number> {
  const { then } = Promise.prototype;
  let count = 0;
  // biome-ignore lint/suspicious/noThenProperty: it counts its calls, and is put back.
  Promise.prototype.then = function (...reactions) {
    count += 1;
    return then.apply(this, reactions) as never;
  };
  try {
    await work();
  } finally {
    // biome-ignore lint/suspicious/noThenProperty: as it was.
    Promise.prototype.then = then;
  }
  return count;
}

it('leaves nothing on the sources that wait for each item of the others', async () => {
  const others = Array.from({ length: 50 }, waiting);
  let items = 0;
  const reactions = await reactionsDuring(async () => {
    for await (const { item } of merge([counting(1000), ...others])) {
      items += 1;
      if (item === 999) for (const other of others) other.release();
    }
  });
  expect(items).toBe(1050);
  // One for each item and each end, and a few of the runner's own; with one on each source that waits it would be fifty times that.
  expect(reactions).toBeLessThan(2 * (1050 + 51));
});

it('throws the first failure and ends the other sources', async () => {
  const other = counting(1000);
  const read = async () => {
    for await (const _ of merge([other, failing, failing]));
  };
  await expect(read()).rejects.toThrow('broken');
  await vi.waitFor(() => expect(other.ended).toBe(true));
});

it('ends the sources when its reader leaves, also those that fail then', async () => {
  const other = counting(1000);
  for await (const _ of merge([other, failing, waiting()])) break;
  await vi.waitFor(() => expect(other.ended).toBe(true));
});
