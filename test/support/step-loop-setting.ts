/** A step loop over ranks without workers, and what a test does with it. */
import { afterEach, beforeEach, expect, vi } from 'vitest';
import { sha256PrefixHash } from '../../controller/engine/prefix-hash.ts';
import { StepLoop } from '../../controller/engine/step-loop.ts';
import type { StepObserver } from '../../controller/engine/step-loop-options.ts';
import type { StepMeasurement } from '../../controller/engine/step-measurement.ts';
import { nothingKept } from '../../controller/scheduler/hand-over.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../proto/domain/generation.ts';
import { FakeRank } from './fake-ranks.ts';

const kvBlockTokens = 4;

interface Given {
  ranks?: number;
  waitingMax?: number;
  kvBlocks?: number;
  parkedBlocks?: number;
  /** In place of what only counts. */
  observer?: Partial<StepObserver>;
}

export function setUp(given: Given = {}) {
  const { ranks: count = 2, waitingMax = 8, kvBlocks = 16, parkedBlocks = 0, observer } = given;
  const ranks = Array.from(
    { length: count },
    (_, rank) => new FakeRank(`worker-${rank}`, kvBlockTokens),
  );
  const failures: HelsError[] = [];
  const measurements: StepMeasurement[] = [];
  const waits: number[] = [];
  let nowMs = 0;
  const limits = {
    kvBlocks,
    parking: { blocks: parkedBlocks },
    kvBlockTokens,
    stepTokensMax: 16,
    sequencesMax: 4,
    contextTokensMax: 64,
    waitingMax,
  };
  const loop = new StepLoop({
    term: 3,
    epoch: 5,
    limits,
    prefixHash: sha256PrefixHash,
    ranks: ranks.map(({ open }) => open),
    predictedStepSeconds: 0.01,
    clock: { nowMs: () => nowMs, unixMs: () => 0 },
    observer: {
      step: (measurement) => {
        measurements.push(measurement);
        nowMs += 10;
      },
      started: () => undefined,
      resumed: (seconds) => waits.push(seconds),
      countsEnd: () => undefined,
      ...observer,
    },
    onFailed: (error) => failures.push(error),
  });
  return { loop, limits, ranks, failures, measurements, waits };
}

export type Test = ReturnType<typeof setUp>;

/** In each test of the file, none of which may leave one running. */
export function useFakeTimers(): void {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
}

export const turn = () => vi.advanceTimersByTimeAsync(0);

/** Reads a stream to its end in the background. */
export function read(stream: AsyncIterable<GenerationEvent>): GenerationEvent[] {
  const events: GenerationEvent[] = [];
  void (async () => {
    for await (const event of stream) events.push(event);
  })();
  return events;
}

export function submit({ loop }: Test, request: GenerationRequest, signal?: AbortSignal) {
  return read(loop.submit(request, signal ?? new AbortController().signal));
}

/** The next epoch's ranks, which hold the KV below `keptBlocks`, and the loop's going on over them. */
export function rebase(test: Test, keptBlocks: number, kvBlocks = test.limits.kvBlocks) {
  const ranks = test.ranks.map((rank) => rank.successor(keptBlocks));
  const epoch = {
    epoch: 6,
    limits: { ...test.limits, kvBlocks },
    ranks: ranks.map(({ open }) => open),
    predictedStepSeconds: 0.01,
  };
  return { ranks, rebased: test.loop.rebase(epoch, { ...nothingKept, blocks: keptBlocks }) };
}

export function answerAll({ ranks }: Pick<Test, 'ranks'>): void {
  while (ranks.every(({ waiting }) => waiting > 0)) for (const rank of ranks) rank.answer();
}

/** One step, by every rank. */
export function answerStep({ ranks }: Pick<Test, 'ranks'>): void {
  for (const rank of ranks) rank.answer();
}

export const tokensOf = (events: readonly GenerationEvent[]) =>
  events.flatMap((event) => (event.type === 'token' ? [event.tokenId] : []));

/** One end, the failure, and nothing behind it. */
export function expectOneFailure(events: readonly GenerationEvent[], error: object): void {
  const ends = events.filter(({ type }) => type !== 'token');
  expect(ends).toEqual([{ type: 'failed', error: expect.objectContaining(error) }]);
  expect(events.at(-1)?.type).toBe('failed');
}
