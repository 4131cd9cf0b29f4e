import { describe, expect, it, vi } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../../proto/domain/generation.ts';
import { responseOf } from '../../support/fake-ranks.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  expectOneFailure,
  setUp,
  submit,
  type Test,
  tokensOf,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

useFakeTimers();

describe('step loop', () => {
  it('gives every request its tokens and one end', async () => {
    const test = setUp({ ranks: 3 });
    const requests = [requestOf('a', 5, 4), requestOf('bb', 9, 1), requestOf('ccc', 20, 6)];
    const streams = requests.map((request) => submit(test, request));
    answerAll(test);
    await turn();
    streams.forEach((events, index) => {
      const request = requests[index] as GenerationRequest;
      expect(tokensOf(events)).toEqual(hashAnswer(request.promptTokenIds, request.maxTokens));
      expect(events.at(-1)).toEqual({ type: 'finished', reason: 'length' });
      expect(events.filter(({ type }) => type !== 'token')).toHaveLength(1);
    });
    expect(test.loop.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
    expect(test.failures).toEqual([]);
  });

  it('serves a prompt that begins like an earlier one from its KV, and says so', async () => {
    const test = setUp();
    const [first, second] = [requestOf('a', 9, 2), requestOf('b', 11, 2)];
    const left = submit(test, first);
    answerAll(test);
    const found = submit(test, second);
    answerAll(test);
    await turn();
    const cachedOf = (events: GenerationEvent[]) =>
      events.flatMap((event) => (event.type === 'token' ? [event.cachedTokens] : []));
    expect([cachedOf(left), cachedOf(found)]).toEqual([
      [0, 0],
      [8, 8],
    ]);
    expect(tokensOf(found)).toEqual(hashAnswer(second.promptTokenIds, 2));
    const steps = test.ranks[0]?.requests ?? [];
    expect(steps.at(-2)?.sequences?.[0]).toMatchObject({ startPosition: 8 });
    // Another epoch has other KV: its loop knows nothing of this one's.
    expect(setUp().loop.scheduler.counts.kvBlocksCached).toBe(0);
  });

  it('sends the same step with its fence to every rank, two ahead at most', async () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    const [first, second] = test.ranks;
    expect(first?.requests.map(({ step }) => step)).toEqual([1, 2]);
    expect(second?.requests).toEqual(first?.requests);
    expect(first?.requests[0]).toMatchObject({ fence: { term: 3, epoch: 5 } });
    expect(first?.requests[0]?.collectiveDeadlineMs).toBeLessThan(10_000);
    first?.answer();
    expect(first?.requests).toHaveLength(2);
    expect(test.loop.outstanding('worker-0')).toBe(true);
    second?.answer();
    expect(first?.requests.map(({ step }) => step)).toEqual([1, 2, 3]);
    answerAll(test);
    expect(test.loop.outstanding('worker-0')).toBe(false);
    expect(test.loop.stepsFinished).toBe(9);
  });

  it('measures each step: its slowest rank, its sequences, their context', () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 2));
    test.ranks[0]?.answer({
      computeSeconds: 0.5,
      collectiveSeconds: 0.5,
      totalSeconds: 1,
      moveSeconds: 0.25,
    });
    test.ranks[1]?.answer({
      computeSeconds: 0.25,
      collectiveSeconds: 1.75,
      totalSeconds: 2,
      remoteSeconds: 0.125,
    });
    answerAll(test);
    expect(test.measurements).toMatchObject([
      {
        sequences: 1,
        decodeOnly: false,
        // Token i of the prompt attends to i tokens: 1 + 2 + 3 + 4 + 5.
        contextTokens: 15,
        load: {
          decodeTokens: 0,
          decodeContextTokens: 0,
          prefillTokens: 5,
          prefillContextTokens: 15,
        },
        rankComputeSeconds: [0.5, 0.25],
        rankCollectiveSeconds: [0.5, 1.75],
        totalSeconds: 2,
        moves: {
          seconds: 0.25,
          replayedTokens: 0,
          computedTokens: 5,
          rankRemoteSeconds: [0, 0.125],
        },
      },
      expect.objectContaining({ decodeOnly: true, contextTokens: 6 }),
    ]);
  });

  it('throws what the scheduler refuses, and queues nothing then', () => {
    const test = setUp({ waitingMax: 1 });
    const signal = new AbortController().signal;
    expect(() => test.loop.submit(requestOf('a', 0, 1), signal)).toThrow('prompt');
    expect(() => test.loop.submit(requestOf('a', 60, 9), signal)).toThrow(
      expect.objectContaining({ code: 'context-too-long' }),
    );
    expect(test.ranks[0]?.requests).toEqual([]);
  });
});

describe('an epoch that fails', () => {
  /** Two requests under way and one that waits for a slot. */
  function underWay() {
    const test = setUp();
    const streams = ['a', 'bb', 'ccc', 'dddd', 'waits'].map((id) =>
      submit(test, requestOf(id, 5, 9)),
    );
    return { ...test, streams };
  }

  async function expectOver(test: Test & { streams: GenerationEvent[][] }, error: object) {
    await turn();
    for (const events of test.streams) expectOneFailure(events, error);
    expect(test.failures).toEqual([expect.objectContaining(error)]);
    expect(test.ranks.every(({ closed }) => closed)).toBe(true);
    expect(() => test.loop.submit(requestOf('z', 1, 1), new AbortController().signal)).toThrow(
      expect.objectContaining(error),
    );
    // What still comes from anywhere changes nothing.
    test.ranks[0]?.break(new HelsError('worker-lost', 'later'));
    test.ranks[0]?.send(responseOf(2));
    test.loop.fail(new HelsError('internal', 'later'));
    await turn();
    expect(test.failures).toHaveLength(1);
  }

  it('has ranks that disagree on a token', async () => {
    const test = underWay();
    test.ranks[0]?.answer();
    const other = test.ranks[1]?.compute() ?? responseOf(1);
    const [first, ...rest] = other.sampled;
    if (first === undefined) throw new Error('nothing was sampled');
    const changed = { ...first, tokenId: first.tokenId + 1 };
    test.ranks[1]?.send({ ...other, sampled: [changed, ...rest] });
    await expectOver(test, {
      code: 'internal',
      message: 'the ranks disagree on the tokens of step 1',
    });
  });

  it('has ranks that disagree on how many tokens there are', async () => {
    const test = underWay();
    test.ranks[0]?.answer();
    test.ranks[1]?.answer({ sampled: [] });
    await expectOver(test, { code: 'internal' });
  });

  it('has a rank whose stream breaks', async () => {
    const test = underWay();
    answerAllOnce(test);
    test.ranks[1]?.break(new HelsError('worker-lost', "worker 'worker-1' closed its step stream"));
    await expectOver(test, { code: 'worker-lost', message: expect.stringContaining('worker-1') });
  });

  it('has a rank that reports an error: the worker and the step are named', async () => {
    const test = underWay();
    test.ranks[0]?.answer();
    test.ranks[1]?.answer({ error: { code: 'numeric-range', message: 'NaN in layer 3' } });
    await expectOver(test, {
      code: 'numeric-range',
      message: "worker 'worker-1', step 1: NaN in layer 3",
    });
  });

  it('has a rank that lost its peer: a code of the native side is a lost worker', async () => {
    const test = underWay();
    test.ranks[0]?.answer({ error: { code: 'peer-lost', message: 'rank 1 is gone' } });
    await vi.advanceTimersByTimeAsync(499);
    expect(test.failures).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    await expectOver(test, { code: 'worker-lost', message: expect.stringContaining('is gone') });
  });

  const echo = { code: 'peer-lost', message: 'rank 1 is gone' };

  it('has a rank that lost its peer, which says why a moment later', async () => {
    const test = underWay();
    test.ranks[0]?.answer({ error: echo });
    // The rest of what that rank says is of no other origin.
    test.ranks[0]?.answer({ error: { code: 'aborted', message: 'ended' } });
    test.ranks[0]?.break(new HelsError('worker-lost', 'step 1 failed'));
    await vi.advanceTimersByTimeAsync(300);
    test.ranks[1]?.answer({ error: { code: 'numeric-range', message: 'NaN in layer 3' } });
    await expectOver(test, {
      code: 'numeric-range',
      message: "worker 'worker-1', step 1: NaN in layer 3",
    });
  });

  it('has a rank that lost its peer, whose stream breaks a moment later', async () => {
    const test = underWay();
    test.ranks[0]?.answer({ error: echo });
    test.ranks[1]?.break(new HelsError('worker-lost', 'the step stream broke'));
    await expectOver(test, { message: 'the step stream broke' });
  });

  it('has ranks that all lost one another: nothing better is waited for', async () => {
    const test = underWay();
    test.ranks[0]?.answer({ error: echo });
    test.ranks[1]?.answer({ error: { code: 'deadline-exceeded', message: 'too late' } });
    await expectOver(test, { message: "worker 'worker-0', step 1: rank 1 is gone" });
  });

  it('has a rank that answers too late: only the silent one is named', async () => {
    const test = underWay();
    test.ranks[0]?.answer();
    await vi.advanceTimersByTimeAsync(10_999);
    expect(test.failures).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    await expectOver(test, {
      code: 'worker-lost',
      message: "step 1 was not answered within 10000 ms by 'worker-1'",
    });
  });

  it('is not over for answers that lay unread while this process stood still', async () => {
    const test = underWay();
    // Of a process that goes on the timers that are due run first.
    vi.advanceTimersByTime(10_000);
    answerAll(test);
    await vi.advanceTimersByTimeAsync(5_000);
    expect([test.failures, test.loop.stepsFinished > 1]).toEqual([[], true]);
  });

  it.each([
    ['a step that was not asked', 9],
    ['step zero', 0],
  ])('has a rank that answers %s', async (_, step) => {
    const test = underWay();
    test.ranks[0]?.send(responseOf(step));
    await expectOver(test, {
      code: 'internal',
      message: `worker 'worker-0' answered step ${step}, which it was not asked`,
    });
  });

  it('has a rank that answers twice', async () => {
    const test = underWay();
    test.ranks[0]?.answer();
    test.ranks[0]?.send(responseOf(1));
    await expectOver(test, { code: 'internal' });
  });

  it('has ranks that answer out of order', async () => {
    const test = underWay();
    const answers = test.ranks.map((rank) => [rank.compute(), rank.compute()]);
    test.ranks.forEach((rank, index) => {
      rank.send(answers[index]?.[1] ?? responseOf(2));
    });
    await expectOver(test, { code: 'internal', message: expect.stringContaining('step 2') });
  });

  it('has ranks that agree on giving no token', async () => {
    const test = underWay();
    for (const rank of test.ranks) rank.answer({ sampled: [] });
    await expectOver(test, { code: 'internal', message: expect.stringContaining('no token') });
  });

  it('is closed by decision: everybody is told, but not the owner', async () => {
    const test = underWay();
    test.loop.close(new HelsError('draining', 'the controller is stopping'));
    await turn();
    for (const events of test.streams) expectOneFailure(events, { code: 'draining' });
    expect(test.failures).toEqual([]);
  });

  function answerAllOnce({ ranks }: Test): void {
    for (const rank of ranks) rank.answer();
  }
});

describe('drain', () => {
  it('refuses new requests, lets running ones end, and then resolves', async () => {
    const test = setUp();
    const request = requestOf('a', 5, 4);
    const events = submit(test, request);
    let drained = false;
    const draining = test.loop.drain(5_000).then(() => {
      drained = true;
    });
    expect(() => submit(test, requestOf('bb', 1, 1))).toThrow(
      expect.objectContaining({ code: 'draining' }),
    );
    await turn();
    expect(drained).toBe(false);
    answerAll(test);
    await draining;
    await turn();
    expect(tokensOf(events)).toEqual(hashAnswer(request.promptTokenIds, 4));
  });

  it('resolves at its deadline; closing then fails what is left', async () => {
    const test = setUp();
    const events = submit(test, requestOf('a', 5, 9));
    const draining = test.loop.drain(5_000);
    await vi.advanceTimersByTimeAsync(5_000);
    await draining;
    expect(events).toEqual([]);
    test.loop.close(new HelsError('draining', 'the controller is stopping'));
    await turn();
    expectOneFailure(events, { code: 'draining' });
  });

  it('resolves at once without requests', async () => {
    await setUp().loop.drain(5_000);
  });
});
