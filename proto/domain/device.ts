import { HelsError } from './errors.ts';

/** A device as the operator describes it: `cpu?threads=1&speed=0.4&memory=1GiB&host=2GiB`, `cuda:0?sm=32&memory=8GiB&host=64GiB`. */
export interface DeviceOption {
  kind: 'cpu' | 'cuda';
  /** Which GPU of the host; 0 for a cpu. */
  index: number;
  /** The fewest multiprocessors of the part of a GPU that is used; null = the whole device. */
  multiprocessors: number | null;
  threads: number;
  /** Below 1 the engine stretches the measured time of each kernel by 1/speed: an emulated slower device. */
  speed: number;
  /** Budget for weights, KV and scratch; null = what the host has free. */
  memoryBytes: number | null;
  /** Host memory for KV of sequences that wait, beside the budget above; page-locked for a GPU. 0 = none. */
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

/** The options of each kind, in the words of its error. */
const optionsOf = {
  cpu: 'threads, speed, memory and host',
  cuda: 'sm, threads, memory and host',
} as const;

/** Parses a device option; throws config-invalid naming the part that is wrong. */
export function parseDeviceOption(text: string): DeviceOption {
  const [name = '', query = '', ...rest] = text.split('?');
  const match = /^(cpu|cuda:(\d{1,4}))$/.exec(name);
  if (match === null || rest.length > 0) {
    throw new HelsError(
      'config-invalid',
      `device: '${text}' is not known; write cpu or cpu?threads=N&speed=S&memory=SIZE&host=SIZE, or cuda:N or cuda:N?sm=N&memory=SIZE&host=SIZE`,
      { field: 'device' },
    );
  }
  const kind = name === 'cpu' ? 'cpu' : 'cuda';
  const device: DeviceOption = {
    kind,
    index: Number(match[2] ?? 0),
    multiprocessors: null,
    threads: 1,
    speed: 1,
    memoryBytes: null,
    hostBytes: 0,
  };
  const given = [...new URLSearchParams(query)];
  for (const [index, [option, value]] of given.entries()) {
    if (given.findIndex(([name]) => name === option) < index) {
      throw new HelsError('config-invalid', `device ${option} is given twice; give it once`, {
        field: `device.${option}`,
      });
    }
    setOption(device, option, value);
  }
  return device;
}

function setOption(device: DeviceOption, name: string, value: string): void {
  const { kind } = device;
  if (name === 'threads') device.threads = parseNumber(value, 'device threads', 1, 1024, true);
  else if (name === 'memory') device.memoryBytes = parseBytes(value, 'device memory');
  else if (name === 'speed' && kind === 'cpu') {
    device.speed = parseNumber(value, 'device speed', 0.01, 1, false);
  } else if (name === 'host') {
    device.hostBytes = value === '0' ? 0 : parseBytes(value, 'device host');
  } else if (name === 'sm' && kind === 'cuda') {
    device.multiprocessors = parseNumber(value, 'device sm', 1, 1024, true);
  } else {
    throw new HelsError(
      'config-invalid',
      `device option '${name}' is not known; the options are ${optionsOf[kind]}`,
      { field: `device.${name}` },
    );
  }
}
