/** The deployment as the store should have it: a store that is away for a moment is asked again. */
import type { Logger } from '../../proto/base/log.ts';
import type { DeploymentRequest } from '../cluster/group.ts';

interface DeploymentStore {
  saveDeployment(request: DeploymentRequest | null): Promise<void>;
}

export class RememberedDeployment {
  readonly #store: DeploymentStore;
  readonly #log: Logger;
  /** Not in the store yet; null: it has all. */
  #unsaved: { request: DeploymentRequest | null } | null = null;
  #saving: Promise<void> | null = null;

  constructor(store: DeploymentStore, log: Logger) {
    this.#store = store;
    this.#log = log;
  }

  /** null: nothing is deployed. */
  save(request: DeploymentRequest | null): void {
    this.#unsaved = { request };
    this.tick();
  }

  /** Resolves when the store has the deployment, or has failed to take it; it is asked again later then. */
  async settled(): Promise<void> {
    while (this.#saving !== null) await this.#saving;
  }

  /** Tries once more what could not be stored. */
  tick(): void {
    const wanted = this.#unsaved;
    if (wanted === null || this.#saving !== null) return;
    this.#saving = this.#store
      .saveDeployment(wanted.request)
      .then(
        () => {
          if (this.#unsaved === wanted) this.#unsaved = null;
        },
        (error: unknown) => {
          this.#log.error('the deployment could not be stored', { error: String(error) });
        },
      )
      .finally(() => {
        this.#saving = null;
        // Something newer came while this was on its way.
        if (this.#unsaved !== null && this.#unsaved !== wanted) this.tick();
      });
  }
}
