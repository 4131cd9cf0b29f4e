import type { Device__Output } from '../../proto/gen/hels/v1/Device.ts';
import type { WorkerClient } from './worker-client.ts';

/** A registered worker that takes part in a deployment. */
export interface GroupWorker {
  id: string;
  incarnation: string;
  address: string;
  device: Device__Output;
  client: WorkerClient;
}

/** By worker id. */
export function incarnationsOf(
  workers: readonly { id: string; incarnation: string }[],
): Map<string, string> {
  return new Map(workers.map(({ id, incarnation }) => [id, incarnation]));
}

/** Progress of one phase, for people. */
export type Progress = (message: string, fraction: number) => void;

/** Workers at one host share its cores: they are measured one after the other, those of different hosts at once. */
export function byHost(workers: readonly GroupWorker[]): GroupWorker[][] {
  const hosts = new Map<string, GroupWorker[]>();
  for (const worker of workers) {
    const host = worker.address.slice(0, worker.address.lastIndexOf(':'));
    hosts.set(host, [...(hosts.get(host) ?? []), worker]);
  }
  return [...hosts.values()];
}
