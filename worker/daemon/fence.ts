/** Who may command this worker: (term, epoch), the controller's leadership and the version of the group's plan. Pure. */
import { HelsError } from '../../proto/domain/errors.ts';

export interface Fence {
  term: number;
  epoch: number;
}

/** Older than every fence a controller can hold. */
export const zeroFence: Fence = { term: 0, epoch: 0 };

/** Negative when `left` is older: terms decide, epochs within a term. */
export function compareFences(left: Fence, right: Fence): number {
  return left.term - right.term || left.epoch - right.epoch;
}

export function showFence(fence: Fence): string {
  return `(term ${fence.term}, epoch ${fence.epoch})`;
}

/** Throws stale-fence, naming both, when `offered` is older than the newest accepted fence. */
export function refuseStale(offered: Fence, newest: Fence): void {
  if (compareFences(offered, newest) < 0) {
    throw new HelsError(
      'stale-fence',
      `fence ${showFence(offered)} is older than ${showFence(newest)}, the newest this worker accepted`,
      { field: 'fence' },
    );
  }
}
