import { describe, expect, it } from 'vitest';
import type { StepMeasurement } from '../../../controller/engine/step-measurement.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../../proto/domain/generation.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  answerStep,
  setUp,
  submit,
  tokensOf,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

useFakeTimers();

describe('KV that makes room', () => {
  it('is moved by the ranks, and the text is that of an undisturbed run', async () => {
    const test = setUp({ kvBlocks: 6, parkedBlocks: 8 });
    const requests = [requestOf('a', 6, 18), requestOf('b', 6, 10)];
    const streams = requests.map((request) => submit(test, request));
    answerAll(test);
    await turn();
    streams.forEach((events, index) => {
      const request = requests[index] as GenerationRequest;
      expect(tokensOf(events)).toEqual(hashAnswer(request.promptTokenIds, request.maxTokens));
    });
    const moves = test.ranks[0]?.requests.flatMap(({ kvMoves }) => kvMoves ?? []) ?? [];
    expect(moves.length).toBeGreaterThanOrEqual(2);
    expect(test.ranks[1]?.requests.flatMap(({ kvMoves }) => kvMoves)).toEqual(moves);
    const counted = test.measurements.map((measurement) => measurement.plan.reloadedTokens);
    expect(counted.reduce((sum, tokens) => sum + tokens, 0)).toBeGreaterThanOrEqual(4);
    // Some steps long, 10 ms each.
    expect(test.waits).toHaveLength(1);
    expect(test.waits[0]).toBeGreaterThan(0.02);
  });

  it('is computed again where there is no parked address, and counted so', async () => {
    const test = setUp({ kvBlocks: 6 });
    const requests = [requestOf('a', 6, 18), requestOf('b', 6, 10)];
    // Without the prefix cache, in which it might be found again.
    for (const request of requests) submit(test, { ...request, prefixCache: null });
    answerAll(test);
    await turn();
    const sum = (read: (measurement: StepMeasurement) => number) =>
      test.measurements.reduce((total, measurement) => total + read(measurement), 0);
    expect(sum(({ plan }) => plan.reloadedTokens)).toBe(0);
    const replayed = sum(({ moves }) => moves.replayedTokens);
    expect(replayed).toBeGreaterThanOrEqual(4);
    expect(sum(({ moves }) => moves.computedTokens)).toBe(5 + 18 + 5 + 10 + replayed);
  });

  it.each([
    ['leaves', (_: ReturnType<typeof setUp>, caller: AbortController) => caller.abort()],
    [
      'loses its epoch',
      ({ loop }: ReturnType<typeof setUp>) => loop.close(new HelsError('worker-lost', 'gone')),
    ],
  ])('waits until its caller %s, and that wait is told, too', async (_, end) => {
    const test = setUp({ kvBlocks: 6, parkedBlocks: 8 });
    const caller = new AbortController();
    submit(test, requestOf('a', 6, 18));
    submit(test, requestOf('b', 6, 10), caller.signal);
    while (test.loop.scheduler.counts.parkedBlocks === 0) answerStep(test);
    answerStep(test);
    expect(test.waits).toEqual([]);
    end(test, caller);
    await turn();
    expect(test.waits).toHaveLength(1);
    answerAll(test);
    await turn();
    expect(test.waits).toHaveLength(1);
  });
});
