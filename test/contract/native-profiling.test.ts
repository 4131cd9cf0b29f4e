/** The addon's measurements, real kernels and real sockets on loopback: what they give, not how fast. */
import { afterEach, describe, expect, it } from 'vitest';
import {
  type CollectiveProbe,
  copyBandwidth,
  openProbe,
  openProfiler,
  type Profiler,
} from '../../worker/binding/native.ts';
import { smallModel } from '../unit/profiler/models.ts';

const options = {
  device: 'cpu',
  multiprocessors: 0,
  threads: 1,
  speed: 1,
  memoryBytes: 0,
  numerics: 'exact' as const,
  kvBlockTokens: 16,
  kvBlocks: 0,
  stepTokensMax: 1,
  sequencesMax: 1,
  corruption: null,
};
const decode = {
  prefill: false,
  tokens: 4,
  contextTokens: 400,
  headGroups: 4,
  ffnColumns: 688,
  vocabRows: 2048,
  chunkTokens: 0,
  chunkContextTokens: 0,
};

describe('the profiler', () => {
  let profiler: Profiler | null = null;
  afterEach(async () => {
    await profiler?.close();
  });

  it('measures decode, prefill and mixed steps; a mixed step takes longer than its decode part', async () => {
    profiler = openProfiler(smallModel, options);
    const alone = await profiler.measure(decode, 5, 1);
    const chunk = { chunkTokens: 256, chunkContextTokens: (256 * 257) / 2 };
    const mixed = await profiler.measure({ ...decode, ...chunk }, 5, 1);
    const prefill = { ...decode, prefill: true, tokens: 256, contextTokens: (256 * 257) / 2 };
    expect(alone).toBeGreaterThan(0);
    expect(mixed).toBeGreaterThan(alone);
    expect(await profiler.measure(prefill, 1, 0)).toBeGreaterThan(0);
  });

  it('names the field of a point that cannot be', async () => {
    profiler = openProfiler(smallModel, options);
    const chunk = { chunkTokens: 1, chunkContextTokens: 1 };
    await expect(
      profiler.measure({ ...decode, ...chunk, prefill: true }, 1, 1),
    ).rejects.toMatchObject({ code: 'request-invalid', message: /chunkTokens is 1/ });
    await expect(profiler.measure({ ...decode, headGroups: 5 }, 1, 1)).rejects.toThrow(
      'headGroups is 5',
    );
  });

  it('is over once closed', async () => {
    const closed = openProfiler(smallModel, options);
    await closed.close();
    await expect(closed.measure(decode, 1, 1)).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('tells how fast the host copies memory', async () => {
    const bytesPerSecond = await copyBandwidth('cpu');
    expect(bytesPerSecond).toBeGreaterThan(0);
    expect(Number.isFinite(bytesPerSecond)).toBe(true);
    await expect(copyBandwidth('gpu')).rejects.toThrow('device is "gpu"');
  });
});

describe('a collective probe', () => {
  const load = { tokens: [1, 64], hiddenSize: 256, sums: 8, repetitions: 5, budgetMs: 2_000 };
  const deadlineMs = 5_000;
  const openAll = (ranks: number) =>
    Promise.all(Array.from({ length: ranks }, (_, rank) => openProbe(rank, ranks, '127.0.0.1')));
  const addressesOf = (probes: CollectiveProbe[]) => probes.map(({ address }) => address);

  it('gives every rank a time for every token count', async () => {
    const probes = await openAll(3);
    const addresses = addressesOf(probes);
    const seconds = await Promise.all(
      probes.map((probe) => probe.measure(addresses, load, deadlineMs)),
    );
    for (const times of seconds) {
      expect(times).toHaveLength(2);
      for (const time of times) expect(time).toBeGreaterThan(0);
    }
  });

  it('ends on every rank after the same round when the budget is spent', async () => {
    const probes = await openAll(2);
    const addresses = addressesOf(probes);
    const spent = { ...load, repetitions: 10_000, budgetMs: 50 };
    const seconds = await Promise.all(
      probes.map((probe) => probe.measure(addresses, spent, deadlineMs)),
    );
    expect(seconds.map(({ length }) => length)).toEqual([2, 2]);
  });

  it('measures once, and ends with its deadline or when it is aborted', async () => {
    const [lonely, absent] = (await openAll(2)) as [CollectiveProbe, CollectiveProbe];
    await expect(lonely.measure(addressesOf([lonely, absent]), load, 200)).rejects.toMatchObject({
      code: expect.stringMatching(/deadline-exceeded|worker-lost/),
    });
    const probes = await openAll(2);
    const addresses = addressesOf(probes);
    const long = { ...load, repetitions: 10_000, budgetMs: 30_000 };
    const running = Promise.allSettled(
      probes.map((probe) => probe.measure(addresses, long, deadlineMs)),
    );
    setTimeout(() => probes[0]?.abort(), 100);
    const codes = (await running).map((result) =>
      result.status === 'rejected' ? result.reason.code : 'none',
    );
    expect(codes[0]).toBe('cancelled');
    expect(codes[1]).not.toBe('none');
    await expect(probes[0]?.measure(addresses, load, deadlineMs)).rejects.toThrow();
  });
});
