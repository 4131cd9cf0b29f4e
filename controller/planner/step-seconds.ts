import type { PlanDevice, PlanInput } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { linkSeconds } from './link-seconds.ts';
import { type Phases, phasesOf, type RankSeconds } from './lockstep.ts';
import type { Share } from './problem.ts';
import { isUsed } from './share-bytes.ts';
import { linesAt, linkOf } from './step-lines.ts';

/**
 * Seconds that a device computes for any step, link not included (design section 6). A step with prompt tokens alone follows the prefill
 * lines. A mixed one follows the decode lines at all its tokens and the decode tokens' context, plus the prompts' attention.
 */
function computePhases(device: PlanDevice, share: Share, load: StepLoad): Phases {
  const { decodeTokens, decodeContextTokens, prefillTokens, prefillContextTokens } = load;
  if (decodeTokens === 0) {
    return phasesOf(linesAt(device.prefill, prefillTokens, prefillContextTokens), share);
  }
  const tokens = decodeTokens + prefillTokens;
  const decode = phasesOf(linesAt(device.decode, tokens, decodeContextTokens), share);
  if (prefillTokens === 0) return decode;
  const perContextHeadGroup = Math.max(
    ...[device.prefill].flat().map((line) => line.perContextHeadGroup ?? 0),
  );
  const prompts = perContextHeadGroup * prefillContextTokens * share.headGroups;
  return { ...decode, attention: decode.attention + prompts };
}

/** Seconds of any step by rank: of each used device, in the order of the input; null of the others. `groupSeconds` makes a step of them. */
export function rankSeconds(
  input: PlanInput,
  shares: readonly Share[],
  load: StepLoad,
): (RankSeconds | null)[] {
  const participants = shares.filter(isUsed).length;
  const tokens = load.decodeTokens + load.prefillTokens;
  return input.devices.map((device, index) => {
    const share = shares[index];
    if (share === undefined || !isUsed(share)) return null;
    const link = linkSeconds(linkOf(device, input), tokens, participants);
    return { ...computePhases(device, share, load), link };
  });
}
