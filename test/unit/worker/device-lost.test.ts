import { expect, it, vi } from 'vitest';
import { cudaMemory, onDeviceLost } from '../../../worker/binding/native.ts';

let failure = { code: '', message: '' };

vi.mock('../../../worker/binding/addon-file.ts', () => ({
  requireAddon: () => ({
    cudaMemory: () => {
      throw Object.assign(new Error(failure.message), { code: failure.code });
    },
  }),
}));

it('tells of a device that is lost, and of no other failure', () => {
  const heard: string[] = [];
  onDeviceLost((error) => heard.push(error.message));
  failure = { code: 'device-missing', message: 'no driver' };
  expect(() => cudaMemory(0)).toThrow(
    expect.objectContaining({ code: 'config-invalid', message: 'no driver' }),
  );
  expect(heard).toEqual([]);
  failure = { code: 'device-lost', message: 'an illegal memory access was encountered' };
  expect(() => cudaMemory(0)).toThrow(
    expect.objectContaining({ code: 'worker-lost', nativeCode: 'device-lost' }),
  );
  expect(heard).toEqual(['an illegal memory access was encountered']);
});
