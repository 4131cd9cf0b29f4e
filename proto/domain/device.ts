import { HelsError } from './errors.ts';

/** A device as the operator describes it: `cpu?threads=1&speed=0.4&memory=1GiB&host=2GiB`. */
export interface DeviceOption {
  kind: 'cpu';
  threads: number;
  /** Below 1 the engine stretches the measured time of each kernel by 1/speed: an emulated slower device. */
  speed: number;
  /** Budget for weights, KV and scratch; null = what the host has free. */
  memoryBytes: number | null;
  /** Host memory for KV of sequences that wait, beside the budget above; 0 = none. */
  hostBytes: number;
}

const unitBytes: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
};

/** `1GiB`, `64MiB`, `1500MB`, `4096` (bytes). Throws config-invalid naming `field`. */
export function parseBytes(text: string, field: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?$/.exec(text);
  const unit = unitBytes[match?.[2] ?? 'B'];
  const bytes = Math.floor(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new HelsError(
      'config-invalid',
      `${field}: '${text}' is not a size; write a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB, for example 1.5GiB`,
      { field },
    );
  }
  return bytes;
}

/** 1073741824 -> "1.00 GiB". */
export function formatBytes(bytes: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB'] as const) {
    const size = unitBytes[unit] ?? 1;
    if (bytes >= size) return `${(bytes / size).toFixed(2)} ${unit}`;
  }
  return `${bytes} B`;
}

function parseNumber(text: string, field: string, low: number, high: number, whole: boolean) {
  const value = Number(text);
  if (text === '' || !(value >= low && value <= high) || (whole && !Number.isInteger(value))) {
    throw new HelsError(
      'config-invalid',
      `${field}: '${text}' is not ${whole ? 'a whole number' : 'a number'} from ${low} to ${high}`,
      { field },
    );
  }
  return value;
}

/** Parses a device option; throws config-invalid naming the part that is wrong. */
export function parseDeviceOption(text: string): DeviceOption {
  const [kind, query = '', ...rest] = text.split('?');
  if (kind !== 'cpu' || rest.length > 0) {
    throw new HelsError(
      'config-invalid',
      `device: '${text}' is not known; write cpu or cpu?threads=N&speed=S&memory=SIZE&host=SIZE`,
      { field: 'device' },
    );
  }
  const device: DeviceOption = {
    kind: 'cpu',
    threads: 1,
    speed: 1,
    memoryBytes: null,
    hostBytes: 0,
  };
  for (const [name, value] of new URLSearchParams(query)) {
    if (name === 'threads') device.threads = parseNumber(value, 'device threads', 1, 1024, true);
    else if (name === 'speed') device.speed = parseNumber(value, 'device speed', 0.01, 1, false);
    else if (name === 'memory') device.memoryBytes = parseBytes(value, 'device memory');
    else if (name === 'host')
      device.hostBytes = value === '0' ? 0 : parseBytes(value, 'device host');
    else {
      throw new HelsError(
        'config-invalid',
        `device option '${name}' is not known; the options are threads, speed, memory and host`,
        { field: `device.${name}` },
      );
    }
  }
  return device;
}
