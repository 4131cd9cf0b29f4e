/** When a group that waits is due to try again. */
import { type Group, retryDelayMs } from '../cluster/group.ts';

export class WaitingRetry {
  #sinceMs: number | null = null;

  /** Asked often; true once each time the group has waited for its delay. */
  isDue(group: Group, nowMs: number): boolean {
    if (group.phase !== 'waiting') {
      this.#sinceMs = null;
      return false;
    }
    this.#sinceMs ??= nowMs;
    if (nowMs - this.#sinceMs < retryDelayMs(group)) return false;
    this.#sinceMs = null;
    return true;
  }
}
