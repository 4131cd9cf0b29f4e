/** Clients of the loop that go away. */
import { describe, expect, it } from 'vitest';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  expectOneFailure,
  read,
  setUp,
  submit,
  tokensOf,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

useFakeTimers();

describe('a client that goes away', () => {
  const empty = { running: 0, waiting: 0, kvBlocksUsed: 0 };

  it('in mid-flight: one cancelled, its blocks come back, others are not disturbed', async () => {
    const test = setUp();
    const abort = new AbortController();
    const gone = submit(test, requestOf('a', 5, 9), abort.signal);
    const request = requestOf('bb', 7, 9);
    const stays = submit(test, request);
    for (const rank of test.ranks) rank.answer();
    abort.abort();
    abort.abort();
    answerAll(test);
    await turn();
    expectOneFailure(gone, { code: 'cancelled' });
    expect(tokensOf(stays)).toEqual(hashAnswer(request.promptTokenIds, 9));
    expect(test.loop.scheduler.counts).toMatchObject(empty);
    expect(test.failures).toEqual([]);
  });

  it('while it waits for a slot', async () => {
    const test = setUp();
    for (const id of ['a', 'bb', 'ccc', 'dddd']) submit(test, requestOf(id, 1, 2));
    const abort = new AbortController();
    const gone = submit(test, requestOf('waits', 1, 2), abort.signal);
    abort.abort();
    await turn();
    expectOneFailure(gone, { code: 'cancelled' });
    answerAll(test);
    expect(test.loop.scheduler.counts).toMatchObject(empty);
  });

  it('before its stream is read', async () => {
    const test = setUp();
    const abort = new AbortController();
    const stream = test.loop.submit(requestOf('a', 5, 9), abort.signal);
    abort.abort();
    answerAll(test);
    expect(test.loop.scheduler.counts).toMatchObject(empty);
    expect(test.loop.stepsFinished).toBe(2);
    const events = read(stream);
    await turn();
    expectOneFailure(events, { code: 'cancelled' });
  });

  it('before it was taken: nothing is computed for it', async () => {
    const test = setUp();
    const events = submit(test, requestOf('a', 5, 9), AbortSignal.abort());
    await turn();
    expectOneFailure(events, { code: 'cancelled' });
    expect(test.ranks[0]?.requests).toEqual([]);
  });

  it('by leaving the iteration', async () => {
    const test = setUp();
    const stream = test.loop.submit(requestOf('a', 5, 9), new AbortController().signal);
    for (const rank of test.ranks) rank.answer();
    expect((await stream.next()).value).toMatchObject({ type: 'token' });
    await stream.return();
    answerAll(test);
    expect(test.loop.scheduler.counts).toMatchObject(empty);
  });
});
