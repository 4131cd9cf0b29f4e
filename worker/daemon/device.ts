/** What this worker's device is and has. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { type DeviceOption, formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Device } from '../../proto/gen/hels/v1/Device.ts';
import { addonFile } from '../binding/addon-file.ts';
import { nativeVersion } from '../binding/native.ts';

export interface HostFacts {
  processorName: string;
  /** What the operating system and the control group would give now. */
  memoryAvailableBytes: number;
}

export function measureHost(): HostFacts {
  return {
    processorName: cpus()[0]?.model.trim() ?? 'unknown processor',
    memoryAvailableBytes: process.availableMemory(),
  };
}

export interface DeviceDescription extends Device {
  memoryBytes: number;
  memoryFreeBytes: number;
  hostMemoryBytes: number;
}

/** Throws config-invalid when the host has not got what is to be kept for parked KV. Pure. */
export function checkHostBytes({ hostBytes }: DeviceOption, atStart: HostFacts): void {
  const { memoryAvailableBytes } = atStart;
  if (hostBytes < memoryAvailableBytes) return;
  throw new HelsError(
    'config-invalid',
    `device host is ${formatBytes(hostBytes)}; this host has ${formatBytes(memoryAvailableBytes)} available, which weights and KV share`,
    { field: 'device.host' },
  );
}

/**
 * The budget is what the operator allows or what the host had at the start, whichever is less. A CPU device lies in the host's memory, so
 * what is kept there for parked KV is not available to it. Pure.
 */
export function describeDevice(
  option: DeviceOption,
  atStart: HostFacts,
  now: HostFacts,
): DeviceDescription {
  const { hostBytes } = option;
  const memoryBytes = Math.min(
    option.memoryBytes ?? Infinity,
    atStart.memoryAvailableBytes - hostBytes,
  );
  return {
    kind: option.kind,
    name: atStart.processorName,
    threads: option.threads,
    speed: option.speed,
    emulated: option.speed < 1 || option.memoryBytes !== null,
    memoryBytes,
    memoryFreeBytes: Math.max(0, Math.min(memoryBytes, now.memoryAvailableBytes - hostBytes)),
    hostMemoryBytes: hostBytes,
  };
}

/** What a measurement on this device holds for: another build, library or instruction set may be faster or slower. */
export function describeImplementation(): string {
  const { oneDnn, gemmImplementation, instructionSet } = nativeVersion();
  const digest = createHash('sha256').update(readFileSync(addonFile())).digest('hex').slice(0, 16);
  return `${instructionSet}, oneDNN ${oneDnn}, ${gemmImplementation}, build ${digest}`;
}
