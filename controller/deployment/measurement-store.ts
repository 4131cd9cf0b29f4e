/** Measurements that outlive the process: what they hold for, and the records under the digest of that. */
import { createHash } from 'node:crypto';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { LoadPoint } from '../profiler/latency-terms.ts';
import { keys } from '../store/keys.ts';
import type { GroupWorker } from './group-worker.ts';

export interface MeasurementStore {
  /** null: nothing is stored under the key. */
  loadMeasurement(key: string): Promise<string | null>;
  saveMeasurement(key: string, value: string): Promise<void>;
}

/** Seconds as measured, without a fit: a better fit of a later build still has them to work on. */
export interface ProfileRecord {
  /** Those of the grid that were measured, in its order. */
  points: LoadPoint[];
  seconds: number[];
  copyBytesPerSecond: number;
  measuredUnixMs: number;
  /** That measuring took. */
  spentSeconds: number;
}

export interface LinkRecord {
  tokens: number[];
  /** By worker id: of one step's collectives, by `tokens`. */
  seconds: Record<string, number[]>;
  measuredUnixMs: number;
}

/** Changes when a record of this build must not be read as one of an earlier. */
const format = 1;

function digestOf(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify([format, value]))
    .digest('hex')
    .slice(0, 32);
}

/** A device's lines hold for its kind, name, threads, speed and kernels, the model's shapes and the grid: not for the worker's name. */
export function profileKey(
  { device }: GroupWorker,
  model: ModelSpec,
  points: readonly LoadPoint[],
): string {
  const { kind, name, threads, speed, implementation } = device;
  return keys.profile(digestOf([kind, name, threads, speed, implementation, model, points]));
}

/** A link holds for the workers, where they are, and the sizes of the sums. */
export function linkKey(workers: readonly GroupWorker[], model: ModelSpec): string {
  const members = workers.map(({ id, address, device }) => [
    id,
    address.slice(0, address.lastIndexOf(':')),
    device.implementation,
  ]);
  return keys.link(digestOf([members.sort(), model.hiddenSize, model.layers]));
}

export async function loadRecord<Stored>(
  store: MeasurementStore,
  key: string,
): Promise<Stored | null> {
  const text = await store.loadMeasurement(key);
  return text === null ? null : (JSON.parse(text) as Stored);
}
