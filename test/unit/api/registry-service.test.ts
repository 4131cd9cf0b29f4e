/** What a worker that registers may say of itself. */
import { expect, it } from 'vitest';
import { registryHandlers } from '../../../controller/api/grpc/registry-service.ts';

const device = {
  kind: 'cpu',
  name: 'Prozessor Größe 1',
  threads: 1,
  speed: 0.4,
  emulated: true,
  memoryBytes: 2 ** 30,
  memoryFreeBytes: 0,
  implementation: 'avx2, build 1',
  hostMemoryBytes: 0,
};
const worker = {
  workerId: 'w-0',
  incarnation: 'i-1',
  address: '[::1]:1',
  version: '0.1.0',
  device,
};

/** The error's details; null: it is registered. */
function register(changes: object): Promise<string | null> {
  const port = { register: () => ({}), heartbeat: () => ({}), deregister: () => undefined };
  const { Register } = registryHandlers(port as never);
  const call = { request: { ...worker, ...changes } };
  return new Promise((resolve) => {
    const done = (error: { details: string } | null) => resolve(error?.details ?? null);
    (Register as unknown as (call: object, done: object) => void)(call, done);
  });
}

it('takes what workers say', async () => {
  expect(await register({})).toBeNull();
  expect(await register({ device: { ...device, kind: 'cuda', threads: 1024 } })).toBeNull();
});

it.each([
  [{ address: 'a:0' }, 'address: "a:0" is not HOST:PORT with a port from 1 to 65535'],
  [{ address: 'a:99999' }, 'address: "a:99999" is not HOST:PORT with a port from 1 to 65535'],
  [{ version: '\u001b[31m' }, 'version: "\\u001b[31m" is not a text of at most 256 characters'],
  [{ version: 'v'.repeat(257) }, 'is not a text of at most 256 characters on one line'],
])('refuses %o', async (changes, message) => {
  expect(await register(changes)).toContain(message);
});

it.each([
  [{ kind: 'tpu' }, 'device.kind: "tpu" is not cpu or cuda'],
  [{ name: 'a\nb' }, 'device.name: "a\\nb" is not a text'],
  [{ implementation: '\r' }, 'device.implementation: "\\r" is not a text'],
  [{ threads: 0 }, 'device.threads: "0" is not a whole number from 1 to 1024'],
  [{ speed: Number.NaN }, 'device.speed: "NaN" is not a number from 0.01 to 1'],
  [{ memoryBytes: 2 ** 64 }, 'device.memory_bytes: "18446744073709552000" is not a whole number'],
  [{ memoryFreeBytes: 2 ** 64 }, 'device.memory_free_bytes: '],
  [{ hostMemoryBytes: 2 ** 64 }, 'device.host_memory_bytes: '],
])('refuses a device with %o', async (changes, message) => {
  expect(await register({ device: { ...device, ...changes } })).toContain(message);
});
