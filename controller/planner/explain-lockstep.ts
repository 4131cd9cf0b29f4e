import { decodeLinkSeconds, evaluateShares } from './evaluate.ts';
import { phasesOf } from './lockstep.ts';
import type { Problem, ProblemDevice, Share } from './problem.ts';
import { isUsed } from './share-bytes.ts';

const meetings = { attention: 'attention', mlp: 'the MLP', output: 'the output matrix' } as const;

const phaseNames = ['attention', 'mlp', 'output'] as const;
type PhaseName = (typeof phaseNames)[number];

/** Decode seconds of the used devices between two meetings. */
function usedPhases({ devices }: Problem, shares: readonly Share[]) {
  return devices.flatMap((device, index) => {
    const share = shares[index] as Share;
    return isUsed(share) ? [{ device, phases: phasesOf(device.decode, share) }] : [];
  });
}

const slowestIn = (used: ReturnType<typeof usedPhases>, phase: PhaseName) =>
  used.reduce((most, next) => (next.phases[phase] > most.phases[phase] ? next : most));

/** The device that this one waits for longest, meeting by meeting; null when it is the last in each of them. */
export function longestWaitFor(
  problem: Problem,
  shares: readonly Share[],
  device: ProblemDevice,
): string | null {
  const used = usedPhases(problem, shares);
  const own = used.find((candidate) => candidate.device === device)?.phases;
  let longest = 0;
  let waitsFor: string | null = null;
  for (const phase of phaseNames) {
    const slowest = slowestIn(used, phase);
    const wait = slowest.phases[phase] - (own?.[phase] ?? 0);
    if (wait > longest) [longest, waitsFor] = [wait, slowest.device.id];
  }
  return waitsFor;
}

/** The rank that the others wait for in each meeting of a decode step, with its seconds there; the link is the slowest rank's. */
export function meetingsText(problem: Problem, shares: readonly Share[]): string {
  const used = usedPhases(problem, shares);
  const parts = phaseNames.flatMap((phase) => {
    const slowest = slowestIn(used, phase);
    if (slowest.phases[phase] === 0) return [];
    const seconds = (slowest.phases[phase] * 1e3).toFixed(2);
    return [`${meetings[phase]} ${slowest.device.id} (${seconds} ms)`];
  });
  const links = used.map(({ device }) => decodeLinkSeconds(problem, device, used.length));
  const link = (Math.max(...links) * 1e3).toFixed(2);
  return `ranks wait for each other within every layer, in ${parts.join(', in ')}; link ${link} ms`;
}

/** Decode seconds of the group when `to` has the share `more` and `from` what that leaves it. */
export function secondsAfterMove(
  problem: Problem,
  shares: readonly Share[],
  { from, to, more }: { readonly from: number; readonly to: number; readonly more: Share },
): number {
  const before = shares[to] as Share;
  const moved = shares.map((share, index) => {
    if (index === to) return more;
    if (index !== from) return share;
    return {
      headGroups: share.headGroups - (more.headGroups - before.headGroups),
      ffnColumns: share.ffnColumns - (more.ffnColumns - before.ffnColumns),
      vocabRows: share.vocabRows - (more.vocabRows - before.vocabRows),
    };
  });
  return evaluateShares(problem, moved).decodeSeconds;
}
