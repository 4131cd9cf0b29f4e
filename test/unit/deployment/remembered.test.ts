import { expect, test } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { Remembered } from '../../../controller/deployment/remembered.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { requestFor } from '../cluster/trace.ts';

/** A store that fails so many times, and then keeps what it is given. */
function site(failures: number) {
  const at = { nowMs: 0, left: failures, tries: 0 };
  const saved: (string | null)[] = [];
  const lines: string[] = [];
  const save = async (request: DeploymentRequest | null) => {
    at.tries += 1;
    at.left -= 1;
    if (at.left >= 0) throw new HelsError('unreachable', 'etcd is away');
    saved.push(request?.modelId ?? null);
  };
  const tell = (message: string) => lines.push(message);
  const remembered = new Remembered(save, 'the deployment', {
    clock: { nowMs: () => at.nowMs },
    log: { info: tell, error: tell } as never,
  });
  /** With ticks as the controller has them. */
  const pass = async (ms: number) => {
    for (const untilMs = at.nowMs + ms; at.nowMs < untilMs; ) {
      at.nowMs += 250;
      remembered.tick();
      await remembered.settled();
    }
  };
  return { remembered, saved, lines, at, pass };
}

test('a store that is away for a moment gets the deployment later, and only once', async () => {
  const { remembered, saved, lines, pass } = site(2);
  remembered.save(requestFor('llama'));
  await remembered.settled();
  expect(remembered.failure).toMatchObject({ code: 'unreachable', message: 'etcd is away' });
  expect(saved).toEqual([]);
  await pass(5_000);
  expect(saved).toEqual(['llama']);
  expect(remembered.failure).toBeNull();
  expect(lines).toEqual([
    'the deployment could not be stored',
    'the deployment could be stored again',
  ]);
});

test('a store that is away for an hour is asked every two seconds, and said to be away once', async () => {
  const { remembered, lines, at, pass } = site(Number.POSITIVE_INFINITY);
  remembered.save(requestFor('llama'));
  await pass(3_600_000);
  expect(lines).toEqual(['the deployment could not be stored']);
  expect(at.tries).toBeGreaterThan(1_700);
  expect(at.tries).toBeLessThan(1_810);
});

test('what is newest is stored last, however the store answers, and does not wait for its turn', async () => {
  const { remembered, saved } = site(1);
  remembered.save(requestFor('llama'));
  remembered.save(null);
  await remembered.settled();
  expect(saved).toEqual([null]);
  const slow = site(0);
  slow.remembered.save(requestFor('llama'));
  slow.remembered.save(requestFor('qwen'));
  await slow.remembered.settled();
  expect(slow.saved).toEqual(['llama', 'qwen']);
  const away = site(5);
  away.remembered.save(requestFor('llama'));
  await away.pass(2_000);
  away.at.left = 0;
  away.remembered.save(requestFor('qwen'));
  await away.remembered.settled();
  expect(away.saved).toEqual(['qwen']);
});
