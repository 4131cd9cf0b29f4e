import { expect, test } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { Remembered } from '../../../controller/deployment/remembered.ts';
import { requestFor } from '../cluster/trace.ts';

/** A store that fails so many times, and then keeps what it is given. */
function storeThatFails(times: number) {
  const saved: (string | null)[] = [];
  let left = times;
  const saveDeployment = async (request: DeploymentRequest | null) => {
    if (left > 0) {
      left -= 1;
      throw new Error('etcd is away');
    }
    saved.push(request?.modelId ?? null);
  };
  return { saved, saveDeployment };
}

const errors: unknown[] = [];
const log = { error: (_: string, fields: unknown) => errors.push(fields) } as never;
const settled = () => new Promise((resolve) => setImmediate(resolve));

test('a store that is away for a moment gets the deployment later, and only once', async () => {
  const store = storeThatFails(2);
  const remembered = new Remembered(store.saveDeployment, 'the deployment', log);
  remembered.save(requestFor('llama'));
  await settled();
  expect([store.saved, errors.length]).toEqual([[], 1]);
  for (let tick = 0; tick < 5; tick += 1) {
    remembered.tick();
    await settled();
  }
  expect([store.saved, errors.length]).toEqual([['llama'], 2]);
});

test('what is newest is stored last, however the store answers', async () => {
  const store = storeThatFails(1);
  const remembered = new Remembered(store.saveDeployment, 'the deployment', log);
  remembered.save(requestFor('llama'));
  remembered.save(null);
  await remembered.settled();
  expect(store.saved).toEqual([null]);
  const slow = storeThatFails(0);
  const another = new Remembered(slow.saveDeployment, 'the deployment', log);
  another.save(requestFor('llama'));
  another.save(requestFor('qwen'));
  await another.settled();
  expect(slow.saved).toEqual(['llama', 'qwen']);
});
