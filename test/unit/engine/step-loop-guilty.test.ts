/** One request that the ranks cannot compute, among others that they can. */
import { describe, expect, it, vi } from 'vitest';
import { Survivors } from '../../../controller/engine/survivors.ts';
import type { StepPlan } from '../../../controller/scheduler/scheduler.ts';
import type { GenerationEvent } from '../../../proto/domain/generation.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  answerStep,
  read,
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

function expectWhole(streams: readonly GenerationEvent[][], but: number): void {
  streams.forEach((events, index) => {
    if (index === but) return;
    const { promptTokenIds } = requests[index] as (typeof requests)[number];
    expect(tokensOf(events)).toEqual(hashAnswer(promptTokenIds, 9));
    expect(events.at(-1)).toEqual({ type: 'finished', reason: 'length' });
  });
}

/** Steps are answered until the oldest under way names the request: its slot there. */
function slotOf({ ranks }: Pick<Test, 'ranks'>, requestId: string): number {
  for (;;) {
    const sequences = (ranks[0]?.next?.sequences ?? []) as StepPlan['sequences'];
    const sequence = sequences.find((one) => one.requestId === requestId);
    if (sequence !== undefined) return sequence.slot;
    answerStep({ ranks });
  }
}

function refuse({ ranks }: Pick<Test, 'ranks'>, slot: number | null): void {
  for (const rank of ranks) rank.refuse(slot);
}

const refused = { code: 'internal', message: 'the ranks refuse the request: topP is 0' };

describe('a step that all ranks refuse', () => {
  it.each([0, 1, 2, 5])(
    'ends the request it is due to, at once; the others go on in the same epoch: after %i steps',
    async (steps) => {
      const test = setUp();
      const streams = requests.map((request) => submit(test, request));
      for (let step = 0; step < steps; step += 1) answerStep(test);
      refuse(test, slotOf(test, 'bb'));
      await turn();
      expect(streams[1]?.at(-1)).toEqual({
        type: 'failed',
        error: expect.objectContaining(refused),
      });
      answerAll(test);
      await turn();
      expectWhole(streams, 1);
      expect(streams[1]?.filter(({ type }) => type !== 'token')).toHaveLength(1);
      expect(test.failures).toEqual([]);
      const asked = test.ranks[0]?.requests.map(({ step }) => step) ?? [];
      expect(asked).toEqual(asked.map((_, index) => index + 1));
      expect(test.loop.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
    },
  );

  it('takes nothing of the step behind it, and plans none until that is answered', async () => {
    const test = setUp();
    const streams = requests.map((request) => submit(test, request));
    answerStep(test);
    const slot = slotOf(test, 'a');
    const asked = test.ranks[0]?.requests.length ?? 0;
    refuse(test, slot);
    await turn();
    const given = streams.map((events) => tokensOf(events).length);
    const late = submit(test, requestOf('late', 5, 2));
    expect(test.ranks[0]?.requests).toHaveLength(asked);
    answerStep(test);
    await turn();
    expect(test.ranks[0]?.requests).toHaveLength(asked + 2);
    expect(streams.slice(1).map((events) => tokensOf(events).length)).toEqual(given.slice(1));
    answerAll(test);
    await turn();
    expectWhole(streams, 0);
    expect(tokensOf(late)).toEqual(hashAnswer(requestOf('late', 5, 2).promptTokenIds, 2));
  });

  it('is none of a request that has left meanwhile: the others go on', async () => {
    const test = setUp();
    const abort = new AbortController();
    const streams = requests.map((request, index) =>
      submit(test, request, index === 0 ? abort.signal : undefined),
    );
    const slot = slotOf(test, 'a');
    abort.abort();
    refuse(test, slot);
    answerAll(test);
    await turn();
    expectWhole(streams, 0);
    expect(test.failures).toEqual([]);
  });

  it('reaches the boundary of a pause, and the next epoch begins with its first step', async () => {
    const test = setUp();
    const streams = requests.map((request) => submit(test, request));
    answerStep(test);
    const boundary = test.loop.pause();
    refuse(test, slotOf(test, 'a'));
    answerStep(test);
    await boundary;
    const { ranks, rebased } = rebase(test, 0);
    expect(ranks[0]?.requests[0]).toMatchObject({ step: 1 });
    answerAll({ ranks });
    await rebased;
    await turn();
    expectWhole(streams, 0);
  });

  it('proves new ranks when it was all there was to do', async () => {
    const test = setUp();
    const events = submit(test, requestOf('a', 5, 9));
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    const { ranks, rebased } = rebase(test, 0);
    refuse({ ranks }, slotOf({ ranks }, 'a'));
    answerAll({ ranks });
    await rebased;
    await turn();
    expect(events.at(-1)).toMatchObject({ type: 'failed', error: refused });
  });

  it('ends the epoch when it is due to none', async () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    refuse(test, null);
    expect(test.failures).toMatchObject([{ code: 'worker-lost' }]);
  });

  it('ends the epoch at once when it is due to none, whatever the other ranks do', () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    test.ranks[0]?.refuse(null);
    expect(test.failures).toMatchObject([{ message: expect.stringContaining('topP is 0') }]);
  });

  it('is the cause that is named when another rank has begun it and gives up', () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    test.ranks[0]?.refuse(0);
    const message = 'a peer did not come within 8000 ms';
    test.ranks[1]?.answer({ error: { code: 'deadline-exceeded', message } });
    expect(test.failures).toEqual([]);
    vi.advanceTimersByTime(1_000);
    expect(test.failures).toMatchObject([{ message: "worker 'worker-0', step 1: topP is 0" }]);
  });

  it('ends the epoch when another rank has done it', async () => {
    const test = setUp();
    submit(test, requestOf('a', 5, 9));
    test.ranks[0]?.refuse(0);
    expect(test.failures).toEqual([]);
    test.ranks[1]?.answer();
    expect(test.failures).toMatchObject([
      { code: 'worker-lost', message: "worker 'worker-0', step 1: topP is 0" },
    ]);
  });
});

describe('a step that leaves the range of numbers', () => {
  it('is the end of the request whose it is, also when new ranks are not proven by it', async () => {
    const test = setUp();
    const streams = requests.map((request) => submit(test, request));
    answerStep(test);
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    const { ranks, rebased } = rebase(test, 0);
    const slot = slotOf({ ranks }, 'a');
    const message = 'a partial sum of sequence 0 of the step is NaN';
    ranks[1]?.answer({ error: { code: 'numeric-range', message, slot } });
    await expect(rebased).rejects.toMatchObject({ code: 'numeric-range' });
    await turn();
    expect(streams[0]?.at(-1)).toMatchObject({ type: 'failed', error: { code: 'numeric-range' } });
    const back = rebase(test, 0);
    answerAll(back);
    await back.rebased;
    await turn();
    expectWhole(streams, 0);
  });

  it('is the end of the request whose it is; the others go on over the next epoch', async () => {
    const test = setUp();
    const survivors = new Survivors({ nowMs: () => 0, unixMs: () => 0 }, () => undefined);
    const streams = requests.map((request) => {
      const keeper = survivors.keeperOf('m', 'the same');
      return read(test.loop.submit(request, new AbortController().signal, keeper));
    });
    answerStep(test);
    const slot = slotOf(test, 'ccc');
    const message = 'a partial sum of sequence 2 of the step is NaN';
    test.ranks[1]?.answer({ error: { code: 'numeric-range', message, slot } });
    await turn();
    expect(test.failures).toMatchObject([{ code: 'numeric-range' }]);
    expect(streams[2]?.at(-1)).toMatchObject({ type: 'failed', error: { code: 'numeric-range' } });
    expect(survivors.count).toBe(4);
    const next = setUp();
    survivors.goOn(next.loop, 'the same');
    answerAll(next);
    await turn();
    expectWhole(streams, 2);
  });
});
