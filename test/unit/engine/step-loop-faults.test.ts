/** Faults of ours, thrown in the loop: each ends the epoch and its requests, and never reaches the socket or timer that called. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Survivors } from '../../../controller/engine/survivors.ts';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import { requestOf } from '../../support/generation-requests.ts';
import {
  answerAll,
  answerStep,
  expectOneFailure,
  read,
  rebase,
  setUp,
  submit,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

useFakeTimers();
afterEach(() => {
  vi.restoreAllMocks();
});

const fault = (): never => {
  throw new TypeError('no such thing');
};
const told = {
  code: 'internal',
  message: 'a fault of the controller: no such thing',
  cause: expect.any(TypeError),
};

/** All is over, once, and every stream knows. */
async function expectOver(test: ReturnType<typeof setUp>, streams: ReturnType<typeof submit>[]) {
  await turn();
  for (const events of streams) expectOneFailure(events, told);
  expect(test.failures).toEqual([expect.objectContaining(told)]);
  expect(test.ranks.every(({ closed }) => closed)).toBe(true);
  expect(() => submit(test, requestOf('late', 3, 3))).toThrow(test.failures[0]);
  await test.loop.drain(1_000);
}

it('of who hears of a step, when the last rank answers it', async () => {
  const test = setUp({ observer: { step: fault } });
  const streams = [submit(test, requestOf('a', 3, 5)), submit(test, requestOf('bb', 3, 5))];
  answerStep(test);
  await expectOver(test, streams);
});

it('of who hears of a start, when the request comes', async () => {
  const test = setUp({ observer: { started: fault } });
  await expectOver(test, [submit(test, requestOf('a', 3, 5))]);
});

it('of the scheduler, when an answer makes room for the next step', async () => {
  const test = setUp();
  const first = submit(test, requestOf('a', 3, 9));
  vi.spyOn(Scheduler.prototype, 'schedule').mockImplementation(fault);
  // The pipeline is full: nothing is planned for this one yet.
  const second = submit(test, requestOf('bb', 3, 9));
  expect(test.failures).toEqual([]);
  answerStep(test);
  await expectOver(test, [first, second]);
});

it('of the scheduler, when a caller goes away', async () => {
  const test = setUp();
  const caller = new AbortController();
  const left = submit(test, requestOf('a', 3, 9), caller.signal);
  const other = submit(test, requestOf('bb', 3, 9));
  vi.spyOn(Scheduler.prototype, 'cancel').mockImplementation(fault);
  caller.abort();
  await expectOver(test, [left, other]);
});

it('of who hears of a wait, also while the epoch ends', async () => {
  const test = setUp({ kvBlocks: 6, observer: { resumed: fault } });
  const streams = [requestOf('a', 6, 18), requestOf('b', 6, 10)].map((request) =>
    submit(test, request),
  );
  while (test.failures.length === 0) answerStep(test);
  await expectOver(test, streams);
});

it('of who hears of the counts, on the way to other ranks', async () => {
  const test = setUp({ observer: { countsEnd: fault } });
  const streams = [submit(test, requestOf('a', 3, 9))];
  const boundary = test.loop.pause();
  answerAll(test);
  await boundary;
  await expect(rebase(test, 0).rebased).rejects.toMatchObject(told);
  await expectOver(test, streams);
});

describe('a request that may go on elsewhere', () => {
  function submitted(given: Parameters<typeof setUp>[0] = {}) {
    const survivors = new Survivors({ nowMs: () => 0, unixMs: () => 0 }, () => undefined);
    const keeper = survivors.keeperOf('m', 'the same');
    const { loop } = setUp(given);
    const events = read(loop.submit(requestOf('a', 5, 9), new AbortController().signal, keeper));
    return { survivors, events };
  }

  it('waits for the next epoch when no step has named it, and ends with the third such fault in a row', async () => {
    vi.spyOn(Scheduler.prototype, 'schedule').mockImplementation(fault);
    const { survivors, events } = submitted();
    const held = [survivors.count];
    for (let epoch = 0; epoch < 2; epoch += 1) {
      survivors.goOn(setUp().loop, 'the same');
      held.push(survivors.count);
    }
    await turn();
    expect(held).toEqual([1, 1, 0]);
    expectOneFailure(events, told);
  });

  it('ends with a fault in the first step that names it', async () => {
    const { survivors, events } = submitted({ observer: { started: fault } });
    await turn();
    expect(survivors.count).toBe(0);
    expectOneFailure(events, told);
  });
});
