import type { PlanDevice, PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { solveWorkload } from './solve-workload.ts';

/** The same workload, planned by policy hels on a cluster that differs by one device. */
export interface ClusterChange {
  readonly change: 'remove' | 'add' | 'swap';
  /** The device that leaves; null for `add`. */
  readonly removed: string | null;
  /** The device that one more of comes; null for `remove`. */
  readonly added: string | null;
  readonly feasible: boolean;
  /** Null when not feasible. */
  readonly decodeSeconds: number | null;
  /** Relative to the plan explained: -0.2 is a step a fifth shorter; null when one of the two is not feasible. */
  readonly decodeChange: number | null;
  readonly text: string;
}

/** Plans that are computed at most. */
const changesMax = 24;

/** Devices that are alike in everything but their name: the first stands for all. */
function kindsOf(devices: readonly PlanDevice[]): PlanDevice[] {
  const kinds = new Map<string, PlanDevice>();
  for (const device of devices) {
    const { id: _, ...kind } = device;
    const key = JSON.stringify(kind);
    if (!kinds.has(key)) kinds.set(key, device);
  }
  return [...kinds.values()];
}

interface Proposal {
  readonly change: ClusterChange['change'];
  readonly removed: PlanDevice | null;
  readonly added: PlanDevice | null;
}

/** One device of each kind less, one more, and each kind for each other, as far as the work allows. */
function proposals(devices: readonly PlanDevice[]): Proposal[] {
  const kinds = kindsOf(devices);
  const removals = devices.length > 1 ? kinds : [];
  const swaps = kinds.flatMap((removed) =>
    kinds
      .filter((added) => added !== removed)
      .map((added): Proposal => ({ change: 'swap', removed, added })),
  );
  return [
    ...removals.map((removed): Proposal => ({ change: 'remove', removed, added: null })),
    ...kinds.map((added): Proposal => ({ change: 'add', removed: null, added })),
    ...swaps,
  ].slice(0, changesMax);
}

/** An id that no device of the cluster has. */
function freshId(devices: readonly PlanDevice[], id: string): string {
  let fresh = `${id}+`;
  while (devices.some((device) => device.id === fresh)) fresh += '+';
  return fresh;
}

function changedDevices(devices: readonly PlanDevice[], proposal: Proposal): PlanDevice[] {
  const { removed, added } = proposal;
  const kept = devices.filter((device) => device !== removed);
  return added === null ? kept : [...kept, { ...added, id: freshId(devices, added.id) }];
}

function sentence({ change, removed, added }: Proposal): string {
  if (change === 'remove') return `without ${removed?.id}`;
  if (change === 'add') return `with one more like ${added?.id}`;
  return `with one more like ${added?.id} instead of ${removed?.id}`;
}

function outcome(seconds: number | null, relative: number | null): string {
  if (seconds === null) return 'no plan fits';
  const step = `step ${(seconds * 1e3).toFixed(2)} ms`;
  if (relative === null) return `${step}, where this plan does not fit`;
  const percent = (100 * Math.abs(relative)).toFixed(1);
  if (percent === '0.0') return `${step}, the same`;
  return `${step}, ${percent} % ${relative < 0 ? 'shorter' : 'longer'}`;
}

/** What one device less, more or exchanged would change, against `plan`. Links stay as the input has them. */
export function clusterChanges(input: PlanInput, plan: PlanOutput): ClusterChange[] {
  return proposals(input.devices).map((proposal) => {
    const devices = changedDevices(input.devices, proposal);
    const { best } = solveWorkload({ ...input, devices }, 'hels').solved;
    const decodeSeconds = best?.evaluation.feasible === true ? best.evaluation.decodeSeconds : null;
    const decodeChange =
      decodeSeconds === null || !plan.feasible
        ? null
        : decodeSeconds / plan.predicted.decodeSeconds - 1;
    return {
      change: proposal.change,
      removed: proposal.removed?.id ?? null,
      added: proposal.added?.id ?? null,
      feasible: decodeSeconds !== null,
      decodeSeconds,
      decodeChange,
      text: `${sentence(proposal)}: ${outcome(decodeSeconds, decodeChange)}`,
    };
  });
}
