import type { PlanOutput } from '../../proto/domain/plan.ts';
import { type Candidate, fitsMemory, linesSeconds } from './evaluate.ts';
import type { Problem, ProblemDevice, Share } from './problem.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

type Binding = PlanOutput['predicted']['bindingConstraint'];

/** A device idles when its step is shorter than the step by more than this share. */
const idleShare = 0.02;

/** Link share of the slowest device's step from which the link is what binds. */
const linkShare = 0.5;

export type Units = Pick<Share, 'headGroups' | 'ffnColumns' | 'vocabRows'>;

/** The whole unit whose loss relieves the slowest device most: a head group, a granule, or a row if it has neither. */
export function reliefOf(problem: Problem, device: ProblemDevice, slowest: Share): Units {
  const units: Units[] = [
    { headGroups: Math.min(1, slowest.headGroups), ffnColumns: 0, vocabRows: 0 },
    {
      headGroups: 0,
      ffnColumns: Math.min(problem.granuleColumns, slowest.ffnColumns),
      vocabRows: 0,
    },
    { headGroups: 0, ffnColumns: 0, vocabRows: Math.min(1, slowest.vocabRows) },
  ];
  const secondsWithout = (unit: Units): number =>
    linesSeconds(device.decode, {
      headGroups: slowest.headGroups - unit.headGroups,
      ffnColumns: slowest.ffnColumns - unit.ffnColumns,
      vocabRows: slowest.vocabRows - unit.vocabRows,
    });
  return units.reduce((best, unit) => (secondsWithout(unit) < secondsWithout(best) ? unit : best));
}

/** A share with one more unit. */
export function withUnit(share: Share, unit: Units): Share {
  return {
    headGroups: share.headGroups + unit.headGroups,
    ffnColumns: share.ffnColumns + unit.ffnColumns,
    vocabRows: share.vocabRows + unit.vocabRows,
  };
}

/** Why an idle device cannot relieve the slowest one: time of a whole unit, its weights, or its KV. */
export function obstacleOf(
  problem: Problem,
  device: ProblemDevice,
  share: Share,
  unit: Units,
): 'granularity' | 'kv' | 'memory' {
  const more = withUnit(share, unit);
  if (fitsMemory(problem, device, more)) return 'granularity';
  return weightBytes(problem, more) <= device.roomBytes ? 'kv' : 'memory';
}

/**
 * What keeps the step from being shorter. Infeasible splits: `kv` when the weights fit, else `memory`. Otherwise the link when it is
 * most of the slowest device's step; `compute` when no device idles; else the obstacle behind most of the idle seconds. In lockstep a device
 * idles in the group's step, which is longer than every device's own.
 */
export function bindingConstraint(problem: Problem, candidate: Candidate): Binding {
  const { shares, deviceSeconds, decodeSeconds, feasible } = candidate.evaluation;
  if (!feasible) {
    const weightsFit = problem.devices.every(
      (device, index) => weightBytes(problem, shares[index] as Share) <= device.roomBytes,
    );
    return weightsFit ? 'kv' : 'memory';
  }
  const slowestSeconds = Math.max(...deviceSeconds);
  const slowestIndex = deviceSeconds.indexOf(slowestSeconds);
  const slowest = shares[slowestIndex] as Share;
  const slowestDevice = problem.devices[slowestIndex] as ProblemDevice;
  const link = slowestSeconds - linesSeconds(slowestDevice.decode, slowest);
  if (link > linkShare * slowestSeconds) return 'link';
  const unit = reliefOf(problem, slowestDevice, slowest);
  const idleSeconds = new Map<Binding, number>();
  for (const [index, share] of shares.entries()) {
    const idle = decodeSeconds - (deviceSeconds[index] as number);
    if (index === slowestIndex || !isUsed(share) || idle <= idleShare * decodeSeconds) continue;
    const device = problem.devices[index] as ProblemDevice;
    const obstacle = obstacleOf(problem, device, share, unit);
    idleSeconds.set(obstacle, (idleSeconds.get(obstacle) ?? 0) + idle);
  }
  let binding: Binding = 'compute';
  let most = 0;
  for (const [obstacle, seconds] of idleSeconds) {
    if (seconds > most) [binding, most] = [obstacle, seconds];
  }
  return binding;
}
