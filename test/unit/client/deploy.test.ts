import { expect, it } from 'vitest';
import {
  type DeployCommandOptions,
  deployOptions,
} from '../../../client/helsctl/commands/deploy.ts';

const defaults: DeployCommandOptions = {
  model: '/m',
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

it('helsctl deploy names a policy only when one is given', () => {
  expect(deployOptions(defaults)).not.toHaveProperty('policy');
  expect(deployOptions({ ...defaults, policy: 'equal' }).policy).toBe('equal');
  expect(deployOptions({ ...defaults, ranks: 'a=8/1' }).ranks).toHaveLength(1);
});

it.each([
  [{ sequences: '1025' }, "--sequences: '1025' is not a whole number from 1 to 1024"],
  [{ prefillChunk: '0' }, "--prefill-chunk: '0' is not a whole number from 1 to 8192"],
  [{ model: '' }, "--model: '' is not a model directory"],
  [{ name: 'nö' }, "--name: 'nö' is not at most 128 letters, digits and . _ / : -"],
  [{ policy: 'best' }, "--policy: 'best' is not one of"],
  [{ policy: 'hels', ranks: 'a=8/1' }, '--ranks: --policy is given too; give one of the two'],
])('helsctl deploy refuses %o', (options, message) => {
  expect(() => deployOptions({ ...defaults, ...options })).toThrow(message);
});
