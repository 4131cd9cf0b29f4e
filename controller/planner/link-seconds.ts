import type { LinkLine } from '../../proto/domain/plan.ts';

/** Times that a ring of so many devices moves its payload through each device's link. */
export function ringPasses(participants: number): number {
  return (2 * (participants - 1)) / participants;
}

/** Link seconds of a step of so many tokens; none for a plan of one device. */
export function linkSeconds(link: LinkLine, tokens: number, participants: number): number {
  if (participants < 2) return 0;
  const ring = (link.perTokenRing ?? 0) * ringPasses(participants);
  return link.constant + (link.perToken + ring) * tokens;
}
