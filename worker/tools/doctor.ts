/** `doctor`: what this host has for Hels, and in words what it lacks. */
import { availableParallelism, cpus } from 'node:os';
import { version } from '../../proto/base/version.ts';
import {
  type CudaDevices,
  type CudaLibrary,
  cudaDevices,
  cudaLibraries,
  type NativeVersion,
  nativeVersion,
} from '../binding/native.ts';

export interface DoctorReport {
  hels: string;
  node: string;
  processor: { name: string; threads: number; memoryAvailableBytes: number } & NativeVersion;
  /** Libraries are looked for only where there is a GPU to use them. */
  cuda: CudaDevices & { libraries: CudaLibrary[] };
}

export function examineHost(): DoctorReport {
  const cuda = cudaDevices();
  return {
    hels: version(),
    node: process.versions.node,
    processor: {
      name: cpus()[0]?.model.trim() ?? 'unknown processor',
      threads: availableParallelism(),
      memoryAvailableBytes: process.availableMemory(),
      ...nativeVersion(),
    },
    cuda: { ...cuda, libraries: cuda.devices.length > 0 ? cudaLibraries() : [] },
  };
}
