/** What the gRPC edge refuses before anything is done. */
import { EventEmitter } from 'node:events';
import { expect, it } from 'vitest';
import { helsHandlers, type OperationsPort } from '../../../controller/api/grpc/hels-service.ts';

/** Calls a streaming handler; resolves to its error's details, or to what reached the operations. */
function call(name: 'Deploy' | 'Replan', workload: object, changes: object = {}): Promise<unknown> {
  return new Promise((resolve) => {
    const seen = (request: unknown) => {
      resolve(request);
      return (async function* () {})();
    };
    const operations = { deploy: seen, replan: seen } as unknown as OperationsPort;
    const handlers = helsHandlers({} as never, operations, () => 0);
    const sizes = { sequences: 0, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };
    const texts = { modelPath: '/m', modelId: '', policy: '', numerics: '', kvPolicy: '' };
    const choices = { quantization: '', workersMin: 0, ranks: [], ...changes };
    const request = { ...texts, ...choices, workload: { ...sizes, ...workload } };
    const stream = Object.assign(new EventEmitter(), { request, end: () => undefined });
    stream.on('error', ({ details }: { details: string }) => resolve(details));
    (handlers[name] as unknown as (stream: object) => void)(stream);
  });
}

it.each(['Deploy', 'Replan'] as const)('%s refuses a load out of range by name', async (name) => {
  const refused = (field: string, value: number, most: number) =>
    expect.stringContaining(`${field}: '${value}' is not a whole number from 1 to ${most}`);
  expect(await call(name, { sequences: 1025 })).toEqual(refused('workload.sequences', 1025, 1024));
  expect(await call(name, { prefillChunk: 65_536 })).toEqual(
    refused('workload.prefill_chunk', 65_536, 8192),
  );
  const most = { sequences: 1024, prefillChunk: 8192 };
  expect(await call(name, most)).toMatchObject({ workload: most });
  expect(await call(name, {})).toMatchObject({ workload: { sequences: 0 } });
});

it.each(['Deploy', 'Replan'] as const)('%s takes a policy or a split by hand', async (name) => {
  const ranks = [{ workerId: 'a', headGroups: 8, ffnWeight: 1 }];
  const both = await call(name, {}, { policy: 'hels', ranks });
  expect(both).toBe('ranks: a policy is given too; give one of the two');
  expect(await call(name, {}, { ranks })).toMatchObject({ ranks });
  expect(await call(name, {}, { policy: 'hels' })).toMatchObject({ policy: 'hels' });
});

it('Deploy waits for no more workers than the other ways in', async () => {
  const refused = "workers_min: '1025' is not a whole number from 1 to 1024";
  expect(await call('Deploy', {}, { workersMin: 1025 })).toBe(refused);
  expect(await call('Deploy', {}, { workersMin: 1024 })).toMatchObject({ workersMin: 1024 });
});
