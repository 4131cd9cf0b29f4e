/** One run at a time on a device, and the newest one wins. */
import { HelsError } from '../../proto/domain/errors.ts';
import { type Fence, showFence } from './fence.ts';

interface Run {
  supersededBy: Fence | null;
  ended: Promise<void>;
}

/**
 * The controller may begin a new deployment while the run of the last one is still here: that one ends with stale-fence when it next
 * asks, and the new one waits for its end, because two at once would measure each other.
 */
export class NewestRun {
  #current: Run | null = null;

  /** Resolves when no run has the device or waits for it. */
  async idle(): Promise<void> {
    while (this.#current !== null) await this.#current.ended;
  }

  /** `body` calls `requireNewest` before each part of its work; it throws stale-fence, naming both, once a newer run has come. */
  async run(fence: Fence, body: (requireNewest: () => void) => Promise<void>): Promise<void> {
    const previous = this.#current;
    if (previous !== null) previous.supersededBy = fence;
    let end = () => {};
    const run: Run = {
      supersededBy: null,
      ended: new Promise((resolve) => {
        end = resolve;
      }),
    };
    this.#current = run;
    const requireNewest = () => {
      if (run.supersededBy === null) return;
      throw new HelsError(
        'stale-fence',
        `the profiling run of ${showFence(fence)} ended for that of ${showFence(run.supersededBy)}`,
        { field: 'fence' },
      );
    };
    try {
      await previous?.ended;
      requireNewest();
      await body(requireNewest);
    } finally {
      if (this.#current === run) this.#current = null;
      end();
    }
  }
}
