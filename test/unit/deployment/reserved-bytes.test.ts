/** What plans count with for KV on loan between GPUs. */
import { expect, it } from 'vitest';
import { reservedAnew, reservedBytesOf } from '../../../controller/deployment/reserved-bytes.ts';
import { smallModel } from '../profiler/models.ts';

const MiB = 2 ** 20;
/** Heads of an 8B model with long contexts. */
const model = {
  ...smallModel,
  weightType: 'bf16' as const,
  headGroups: 8,
  queryHeadsPerGroup: 4,
  headDim: 128,
  maxPositions: 131_072,
  slidingWindows: [],
};
const reserved = {
  model,
  numerics: 'exact' as const,
  stepTokensMax: 2048,
  sequencesMax: 64,
  lends: true,
};

const lentBytes = (ranks: number) => {
  const bytes = (lends: boolean) => reservedBytesOf({ ...reserved, ranks, lends }, 'cuda');
  return bytes(true) - bytes(false);
};

it('is enough for the engine, and not much more', () => {
  // What native/test/cuda_remote_test.cpp finds, of groups of two and three.
  for (const [ranks, mebibytes] of [
    [2, 138.57],
    [3, 150.78],
  ] as const) {
    const planned = lentBytes(ranks) / MiB;
    expect(planned).toBeGreaterThan(mebibytes);
    expect(planned).toBeLessThan(1.3 * mebibytes);
  }
  // No more ranks than have heads are owners.
  expect((lentBytes(16) - lentBytes(9)) / MiB).toBeLessThan(3);
});

it('grows for those that stay when others join', () => {
  const device = { id: 'a', memoryBytes: 1, reservedBytes: 5, decode: [], prefill: [] };
  const link = { constant: 0, perToken: 0 };
  const anew = reservedAnew(
    [{ ...device, link }],
    new Map([['a', 'cuda']]),
    { ...reserved, ranks: 2 },
    { ...reserved, ranks: 3 },
  );
  const change = reservedBytesOf({ ...reserved, ranks: 3 }, 'cuda');
  expect(anew[0]?.reservedBytes).toBe(
    5 + change - reservedBytesOf({ ...reserved, ranks: 2 }, 'cuda'),
  );
});
