/** What a deployment under way may ask of the coordinator; everything throws once the attempt is superseded. */
import type { Attempt } from './attempt.ts';
import type { CoordinatorOptions } from './coordinator-options.ts';
import type { RunPorts } from './deployment-run.ts';
import type { GroupWorker } from './group-worker.ts';
import { refuseLost } from './store-ahead.ts';
import type { WorkerClients } from './worker-clients.ts';

export interface RunHooks {
  /** The phase, for people. */
  detail(name: string): void;
  membersChosen(workers: readonly GroupWorker[]): void;
}

export function runPortsOf(
  attempt: Attempt,
  { registry, clock, store }: Pick<CoordinatorOptions, 'registry' | 'clock' | 'store'>,
  clients: WorkerClients,
  hooks: RunHooks,
): RunPorts {
  const { signal } = attempt.abort;
  const unattended = attempt.workersTimeoutMs === Number.POSITIVE_INFINITY;
  return {
    phase: (name) => {
      signal.throwIfAborted();
      hooks.detail(name);
      return (message, fraction) => {
        // Thrown to whoever measures or loads, which ends its stream: the workers are wanted for another attempt.
        signal.throwIfAborted();
        attempt.channel.progress(name, message, fraction);
      };
    },
    unattended,
    workers: async (count) => {
      // Nobody is there to say that fewer are enough while some are drained.
      const wanted = unattended ? Math.max(1, count - registry.drained().length) : count;
      const { workersTimeoutMs, settleMs } = attempt;
      const members = await registry.waitForAvailable(wanted, workersTimeoutMs, signal, settleMs);
      return members.map((member) => ({ ...member, client: clients.at(member.address) }));
    },
    unreachable: (workers) => {
      signal.throwIfAborted();
      for (const worker of workers) registry.unreachable(worker);
    },
    membersChosen: (workers) => {
      signal.throwIfAborted();
      // One that started again meanwhile answers at the same address, but is another worker.
      refuseLost(workers, registry.members());
      hooks.membersChosen(workers);
    },
    savePlan: (plan) => store.savePlan(plan),
    store,
    nowMs: () => clock.nowMs(),
    unixMs: () => clock.unixMs(),
  };
}
