/** How long a request waits for the model that served before it. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Returning } from '../../../controller/engine/returning.ts';
import { limits } from '../../../controller/limits.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const here = () => new AbortController().signal;
const turn = () => vi.advanceTimersByTimeAsync(0);

/** Says when it is over. */
function wait(returning: Returning, modelId: string | null = 'm', signal = here()) {
  const state = { over: false };
  void returning.wait(modelId, signal).then(() => {
    state.over = true;
  });
  return state;
}

const made = () => new Returning({ nowMs: () => Date.now(), unixMs: () => 0 });

/** An epoch of the model has ended, and another is on its way. */
function ended(): Returning {
  const returning = made();
  returning.ended('m');
  returning.tick(['m']);
  return returning;
}

it('nobody waits while a model serves, before the first, or for another model', async () => {
  const returning = made();
  const before = wait(returning);
  await turn();
  expect(before.over).toBe(true);
  returning.ended('m');
  const other = wait(returning, 'other');
  returning.over();
  const serves = wait(returning);
  await turn();
  expect([other.over, serves.over]).toEqual([true, true]);
});

it('those that name the model, or none, wait until it serves', async () => {
  const returning = ended();
  const waits = [wait(returning), wait(returning, null)];
  await vi.advanceTimersByTimeAsync(limits.returnWaitMsMax - 1);
  expect(waits.map(({ over }) => over)).toEqual([false, false]);
  returning.over();
  await turn();
  expect(waits.map(({ over }) => over)).toEqual([true, true]);
});

it.each([[[]], [['other']]])('they wait no longer when what is coming is %j', async (coming) => {
  const returning = ended();
  const waits = wait(returning);
  returning.tick(coming);
  const late = wait(returning);
  await turn();
  expect([waits.over, late.over]).toEqual([true, true]);
});

it('they wait from the end of the epoch on, before anybody knows what is coming', async () => {
  const returning = made();
  returning.ended('m');
  const waits = wait(returning);
  await turn();
  expect(waits.over).toBe(false);
  returning.tick(['m']);
  returning.over();
});

it('they wait until the end of the epoch is as long ago as may be; who comes later is told at once', async () => {
  const returning = ended();
  const waits = wait(returning);
  await vi.advanceTimersByTimeAsync(limits.returnWaitMsMax - 1_000);
  const later = wait(returning);
  await turn();
  expect([waits.over, later.over]).toEqual([false, false]);
  await vi.advanceTimersByTimeAsync(1_000);
  const late = wait(returning);
  await turn();
  expect([waits.over, later.over, late.over]).toEqual([true, true, true]);
});

it('one that leaves waits no longer', async () => {
  const returning = ended();
  const caller = new AbortController();
  const waits = wait(returning, 'm', caller.signal);
  caller.abort();
  const gone = wait(returning, 'm', caller.signal);
  await turn();
  expect([waits.over, gone.over]).toEqual([true, true]);
});

it('no more wait than may', async () => {
  const returning = ended();
  for (let n = 0; n < limits.returnWaitingMax; n += 1) wait(returning);
  await expect(returning.wait('m', here())).rejects.toMatchObject({ code: 'overloaded' });
  returning.over();
  await turn();
  returning.ended('m');
  const again = wait(returning);
  await turn();
  expect(again.over).toBe(false);
  returning.over();
});
