import type { PlanDevice } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { linesSeconds } from './evaluate.ts';
import { linesAt, type Share } from './problem.ts';

/**
 * Seconds that a device computes for any step, link not included (design section 6). A step with prompt tokens alone follows the prefill
 * lines. A mixed one follows the decode lines at all its tokens and the decode tokens' context, plus the prompts' attention.
 */
export function computeSeconds(device: PlanDevice, share: Share, load: StepLoad): number {
  const { decodeTokens, decodeContextTokens, prefillTokens, prefillContextTokens } = load;
  if (decodeTokens === 0) {
    return linesSeconds(linesAt(device.prefill, prefillTokens, prefillContextTokens), share);
  }
  const tokens = decodeTokens + prefillTokens;
  const decode = linesSeconds(linesAt(device.decode, tokens, decodeContextTokens), share);
  if (prefillTokens === 0) return decode;
  const perContextHeadGroup = Math.max(
    ...[device.prefill].flat().map((line) => line.perContextHeadGroup ?? 0),
  );
  return decode + perContextHeadGroup * prefillContextTokens * share.headGroups;
}
