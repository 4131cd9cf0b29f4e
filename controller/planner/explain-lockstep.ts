import { decodeLinkSeconds, evaluateShares } from './evaluate.ts';
import { phasesOf } from './lockstep.ts';
import type { Problem, Share } from './problem.ts';
import { isUsed } from './share-bytes.ts';

const meetings = { attention: 'attention', mlp: 'the MLP', output: 'the output matrix' } as const;

/** The rank that the others wait for in each meeting of a decode step, with its seconds there; the link is the slowest rank's. */
export function meetingsText(problem: Problem, shares: readonly Share[]): string {
  const used = problem.devices.flatMap((device, index) => {
    const share = shares[index] as Share;
    return isUsed(share) ? [{ device, phases: phasesOf(device.decode, share) }] : [];
  });
  const parts = (['attention', 'mlp', 'output'] as const).flatMap((phase) => {
    const slowest = used.reduce((most, next) =>
      next.phases[phase] > most.phases[phase] ? next : most,
    );
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
