/** The loop over the ranks of one epoch after the other. */
import { describe, expect, it } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../../proto/domain/generation.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  rebase,
  setUp,
  submit,
  type Test,
  tokensOf,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

const requests = ['a', 'bb', 'ccc', 'dddd', 'waits'].map((id) => requestOf(id, 5, 9));

useFakeTimers();

/** Some tokens in, and paused: the steps under way are answered. */
async function paused(options: Parameters<typeof setUp>[0] = {}) {
  const test = setUp({ kvBlocks: 24, ...options });
  const streams = requests.map((request) => submit(test, request));
  for (let step = 0; step < 3; step += 1) for (const rank of test.ranks) rank.answer();
  const boundary = test.loop.pause();
  const asked = test.ranks[0]?.requests.length;
  answerAll(test);
  await boundary;
  await turn();
  expect(test.ranks[0]?.requests).toHaveLength(asked ?? 0);
  return { test, streams };
}

function expectWhole(streams: readonly GenerationEvent[][]): void {
  streams.forEach((events, index) => {
    const { promptTokenIds, maxTokens } = requests[index] as GenerationRequest;
    expect(tokensOf(events)).toEqual(hashAnswer(promptTokenIds, maxTokens));
    expect(events.at(-1)).toEqual({ type: 'finished', reason: 'length' });
  });
}

describe('a loop that goes on over other ranks', () => {
  it.each([
    ['computes again what is not kept', 0, 24],
    ['goes on from the KV that is kept', 24, 24],
    ['does both in a smaller group', 5, 14],
  ])('%s', async (_, keptBlocks, kvBlocks) => {
    const { test, streams } = await paused();
    const before = streams.map((events) => tokensOf(events).length);
    expect(Math.max(...before)).toBeGreaterThan(0);
    const { ranks, rebased } = rebase(test, keptBlocks, kvBlocks);
    // Steps are counted anew, and nothing refers to what the old ranks sampled.
    const [first] = ranks[0]?.requests ?? [];
    expect(first).toMatchObject({ step: 1, fence: { term: 3, epoch: 6 } });
    expect(first?.sequences?.every(({ takeSampled }) => takeSampled === false)).toBe(true);
    const starts = first?.sequences?.map(({ startPosition }) => startPosition ?? 0) ?? [];
    expect(Math.max(...starts) > 0).toBe(keptBlocks > 0);
    for (const rank of ranks) rank.answer();
    await rebased;
    test.loop.scheduler.checkIntegrity();
    answerAll({ ranks });
    await turn();
    expectWhole(streams);
    expect(test.loop.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
    expect(test.ranks.every(({ closed }) => closed)).toBe(true);
    expect(test.failures).toEqual([]);
  });

  it('lets requests wait that arrive in the pause, and those go that are cancelled in it', async () => {
    const { test, streams } = await paused();
    const abort = new AbortController();
    const late = submit(test, requestOf('late', 5, 3));
    const cancelled = submit(test, requestOf('cancelled', 5, 3), abort.signal);
    abort.abort();
    await turn();
    expect(cancelled).toEqual([
      { type: 'failed', error: expect.objectContaining({ code: 'cancelled' }) },
    ]);
    expect(late).toEqual([]);
    const { ranks, rebased } = rebase(test, 24);
    answerAll({ ranks });
    await rebased;
    await turn();
    expectWhole(streams);
    expect(tokensOf(late)).toEqual(hashAnswer(requestOf('late', 5, 3).promptTokenIds, 3));
  });

  it('resolves at once when nobody is there', async () => {
    const test = setUp();
    await test.loop.pause();
    await rebase(test, 0).rebased;
    expect(test.loop.scheduler.counts.running).toBe(0);
  });

  it('pauses again when the new ranks fail before they answered, and others take over', async () => {
    const { test, streams } = await paused();
    const failing = rebase(test, 24);
    failing.ranks[1]?.break(new HelsError('worker-lost', 'gone'));
    await expect(failing.rebased).rejects.toMatchObject({ code: 'worker-lost', message: 'gone' });
    await test.loop.pause();
    expect(streams.flat().every(({ type }) => type === 'token')).toBe(true);
    const { ranks, rebased } = rebase(test, 0);
    answerAll({ ranks });
    await rebased;
    await turn();
    expectWhole(streams);
    expect(test.failures).toEqual([]);
  });

  it('takes no request on the way to more room that the way back could not hold', async () => {
    const test = setUp({ kvBlocks: 8 });
    const before = submit(test, requestOf('before', 5, 9));
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    const failing = rebase(test, 0, 16);
    const { signal } = new AbortController();
    const long = () => test.loop.submit(requestOf('long', 5, 28), signal);
    const refusal = 'one sequence may have 32: the group holds KV of 32 tokens, the model could';
    expect(long).toThrow(refusal);
    failing.ranks[1]?.break(new HelsError('worker-lost', 'gone'));
    await expect(failing.rebased).rejects.toMatchObject({ message: 'gone' });
    expect(long).toThrow(refusal);
    const during = submit(test, requestOf('during', 5, 27));
    const back = rebase(test, 0, 8);
    answerAll(back);
    await back.rebased;
    await turn();
    expect([tokensOf(before).length, tokensOf(during).length]).toEqual([9, 27]);
  });

  it('takes longer requests once the ranks with more room have answered', async () => {
    const test = setUp({ kvBlocks: 8 });
    const before = submit(test, requestOf('before', 5, 9));
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    const more = rebase(test, 0, 16);
    answerAll(more);
    await more.rebased;
    const long = submit(test, requestOf('long', 5, 28));
    answerAll(more);
    await turn();
    expect([tokensOf(before).length, tokensOf(long).length]).toEqual([9, 28]);
  });

  it('reaches the boundary of a pause that was asked for before the new ranks failed', async () => {
    const { test, streams } = await paused();
    const failing = rebase(test, 24);
    const failed = expect(failing.rebased).rejects.toMatchObject({ message: 'gone' });
    const boundary = test.loop.pause();
    failing.ranks[1]?.break(new HelsError('worker-lost', 'gone'));
    await failed;
    await boundary;
    const { ranks, rebased } = rebase(test, 0);
    answerAll({ ranks });
    await rebased;
    await turn();
    expectWhole(streams);
    expect(test.failures).toEqual([]);
  });

  it('is over when they fail after their first answer', async () => {
    const { test, streams } = await paused();
    const { ranks, rebased } = rebase(test, 24);
    for (const rank of ranks) rank.answer();
    await rebased;
    ranks[0]?.break(new HelsError('worker-lost', 'gone'));
    await turn();
    for (const events of streams) expect(events.at(-1)?.type).toBe('failed');
    expect(test.failures).toHaveLength(1);
  });

  it('tells whoever waits for a boundary that never comes', async () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    const boundary = test.loop.pause();
    test.ranks[0]?.break(new HelsError('worker-lost', 'gone'));
    await expect(boundary).rejects.toMatchObject({ message: 'gone' });
    await expect(test.loop.pause()).rejects.toMatchObject({ message: 'gone' });
    await expect(rebase(test, 0).rebased).rejects.toMatchObject({ message: 'gone' });
  });

  it('takes no request that could not go on, and refuses a plan under which one could not', () => {
    const test: Test = setUp();
    submit(test, requestOf('a', 5, 9));
    expect(() => test.loop.reserve(13)).toThrow(
      expect.objectContaining({ code: 'plan-infeasible' }),
    );
    test.loop.reserve(14);
    const { signal } = new AbortController();
    expect(() => test.loop.submit(requestOf('b', 5, 10), signal)).toThrow(
      expect.objectContaining({ code: 'context-too-long' }),
    );
    answerAll(test);
  });
});
