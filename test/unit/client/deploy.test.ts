import { expect, it } from 'vitest';
import {
  type DeployCommandOptions,
  deployOptions,
} from '../../../client/helsctl/commands/deploy.ts';

const defaults: DeployCommandOptions = {
  model: '/m',
  policy: 'hels',
  numerics: 'exact',
  quantization: 'auto',
  workers: '1',
  timeout: '60',
  kvPolicy: 'evict',
  prefixCache: true,
  autoReplan: 'on',
};

it('helsctl deploy asks for the load that is given and nothing else', () => {
  expect(deployOptions(defaults).workload).toEqual({ allowRemoteKv: false });
  const load = { sequences: '128', context: '2048', prefillChunk: '1024' };
  expect(deployOptions({ ...defaults, ...load }).workload).toEqual({
    sequences: 128,
    contextTokens: 2048,
    prefillChunk: 1024,
    allowRemoteKv: false,
  });
});

it.each([
  [{ sequences: '1025' }, "--sequences: '1025' is not a whole number from 1 to 1024"],
  [{ prefillChunk: '0' }, "--prefill-chunk: '0' is not a whole number from 1 to 8192"],
])('helsctl deploy refuses %o', (options, message) => {
  expect(() => deployOptions({ ...defaults, ...options })).toThrow(message);
});
