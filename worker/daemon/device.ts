/** What this worker's device is and has. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { type DeviceOption, formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Device } from '../../proto/gen/hels/v1/Device.ts';
import { addonFile } from '../binding/addon-file.ts';
import type { EngineOptions } from '../binding/engine-types.ts';
import { cudaDevices, cudaMemory, nativeVersion } from '../binding/native.ts';

export interface DeviceFacts {
  /** As the hardware calls itself; of a part of a GPU also how large it is. */
  name: string;
  /** What the operating system and the control group, or the GPU, would give now. */
  memoryAvailableBytes: number;
  /** What the host would give now: for a CPU the same memory. */
  hostAvailableBytes: number;
}

/** Throws config-invalid for a GPU that this host does not have, saying why. */
export function measureDevice({ kind, index, multiprocessors }: DeviceOption): DeviceFacts {
  const hostAvailableBytes = process.availableMemory();
  if (kind === 'cpu') {
    const name = cpus()[0]?.model.trim() ?? 'unknown processor';
    return { name, memoryAvailableBytes: hostAvailableBytes, hostAvailableBytes };
  }
  const { freeBytes } = cudaMemory(index);
  const gpu = cudaDevices().devices[index];
  const part =
    multiprocessors === null
      ? ''
      : `, partition of ${multiprocessors} of ${gpu?.multiprocessors ?? 0} multiprocessors`;
  const name = `${gpu?.name ?? 'GPU'}${part}`;
  return { name, memoryAvailableBytes: freeBytes, hostAvailableBytes };
}

/** The device in the words of the engine. */
export function engineDevice({
  kind,
  index,
  multiprocessors,
}: DeviceOption): Pick<EngineOptions, 'device' | 'multiprocessors'> {
  return {
    device: kind === 'cpu' ? 'cpu' : `cuda:${index}`,
    multiprocessors: multiprocessors ?? 0,
  };
}

export interface DeviceDescription extends Device {
  memoryBytes: number;
  memoryFreeBytes: number;
  hostMemoryBytes: number;
}

/** Throws config-invalid when the host has not got what is to be kept for parked KV. Pure. */
export function checkHostBytes({ kind, hostBytes }: DeviceOption, atStart: DeviceFacts): void {
  const { hostAvailableBytes } = atStart;
  if (hostBytes < hostAvailableBytes) return;
  const shared = kind === 'cpu' ? ', which weights and KV share' : '';
  throw new HelsError(
    'config-invalid',
    `device host is ${formatBytes(hostBytes)}; this host has ${formatBytes(hostAvailableBytes)} available${shared}`,
    { field: 'device.host' },
  );
}

/**
 * The budget is what the operator allows or what the device had at the start, whichever is less. A CPU device lies in the host's memory, so
 * what is kept there for parked KV is not available to it. Pure.
 */
export function describeDevice(
  option: DeviceOption,
  atStart: DeviceFacts,
  now: DeviceFacts,
): DeviceDescription {
  const { hostBytes } = option;
  const shared = option.kind === 'cpu' ? hostBytes : 0;
  const memoryBytes = Math.min(
    option.memoryBytes ?? Infinity,
    atStart.memoryAvailableBytes - shared,
  );
  return {
    kind: option.kind,
    name: atStart.name,
    threads: option.threads,
    speed: option.speed,
    emulated: option.speed < 1 || option.memoryBytes !== null || option.multiprocessors !== null,
    memoryBytes,
    memoryFreeBytes: Math.max(0, Math.min(memoryBytes, now.memoryAvailableBytes - shared)),
    hostMemoryBytes: hostBytes,
  };
}

/** What a measurement on this device holds for: another build, library or instruction set may be faster or slower. */
export function describeImplementation({ kind, index }: DeviceOption): string {
  const { oneDnn, gemmImplementation, instructionSet } = nativeVersion();
  const digest = createHash('sha256').update(readFileSync(addonFile())).digest('hex').slice(0, 16);
  if (kind === 'cuda') {
    const { devices, driver, runtime } = cudaDevices();
    const capability = devices[index]?.computeCapability ?? 'unknown';
    return `compute capability ${capability}, CUDA ${runtime}, driver ${driver}, build ${digest}`;
  }
  return `${instructionSet}, oneDNN ${oneDnn}, ${gemmImplementation}, build ${digest}`;
}
