import type { KvPolicy } from '../../proto/domain/kv-policy.ts';

/**
 * The life of the one group that serves a model. Pure: (state, event) -> (state, effects).
 *
 *            deploy                     members-chosen, serving
 *   empty ------------> deploying(epoch) ------------------------> ready
 *     ^                  |  ^  ^                                     |
 *     | undeploy         |  |  +-- worker-lost, epoch-failed --------+   epoch + 1, over the workers that are left
 *     | (from anywhere)  |  +-- a worker joins or is lost -- waiting
 *                        |                                    ^
 *                        +-- deploy-failed, unattended -------+   at once again when the workers changed meanwhile
 *                        +-- deploy-failed, attended: back to what served before, else --> failed
 *                        +-- replan: epoch + 1 over the same workers, for whoever waited before
 *
 * The loss of one of its workers fails a deployment under way. Epochs only grow; an event of another epoch than the current one
 * changes nothing, and the loss of a worker that takes no part does not disturb what runs.
 */
export interface DeploymentRequest {
  modelPath: string;
  modelId: string;
  policy: string;
  numerics: string;
  /** auto, also empty: as the files are. */
  quantization: string;
  workersMin: number;
  workload: {
    sequences: number;
    contextTokens: number;
    prefillChunk: number;
    outputTokens: number;
    /** KV may lie on another rank than its heads; absent: no. */
    allowRemoteKv?: boolean;
  } | null;
  ranks: { workerId: string; headGroups: number; ffnWeight: number }[];
  /** Absent: true. */
  prefixCache?: boolean;
  /** When KV runs out; absent: evict. */
  kvPolicy?: KvPolicy;
}

type GroupPhase = 'empty' | 'deploying' | 'ready' | 'waiting' | 'failed';

export interface Group {
  readonly phase: GroupPhase;
  /** The newest epoch begun. */
  readonly epoch: number;
  readonly request: DeploymentRequest | null;
  /** Worker id -> incarnation, of the epoch's workers; empty until the plan has chosen them. */
  readonly members: ReadonlyMap<string, string>;
  /** Why the group does not serve; empty when it does. */
  readonly detail: string;
  /** A person waits for this deployment: its failure is theirs to see, not a reason to try again. */
  readonly attended: boolean;
  /** What served before an attended deployment: it comes back when that one fails. */
  readonly fallback: DeploymentRequest | null;
  /** A worker joined or was lost since this attempt began: should it fail, the next one may not. */
  readonly workersChanged: boolean;
}

export type GroupEvent =
  | { type: 'deploy'; request: DeploymentRequest; attended: boolean }
  | { type: 'members-chosen'; epoch: number; members: ReadonlyMap<string, string> }
  | { type: 'serving'; epoch: number }
  | { type: 'deploy-failed'; epoch: number; reason: string }
  /** The warm-up has shown that another split is worth loading. */
  | { type: 'replan'; epoch: number; reason: string }
  | { type: 'epoch-failed'; epoch: number; reason: string }
  | { type: 'worker-lost'; id: string; incarnation: string; reason: string }
  | { type: 'worker-joined' }
  | { type: 'undeploy' };

export type GroupEffect =
  /** Every request of the epoch ends with an explicit error; the ranks free what they hold. */
  | { type: 'end-epoch'; epoch: number; reason: string }
  /** Run a deployment under this epoch; whatever runs for an older one stops. */
  | { type: 'start-deployment'; epoch: number; request: DeploymentRequest }
  | { type: 'persist-deployment'; request: DeploymentRequest | null };

export interface GroupStep {
  group: Group;
  effects: GroupEffect[];
}

export function initialGroup(epoch: number): Group {
  return {
    phase: 'empty',
    epoch,
    request: null,
    members: new Map(),
    detail: '',
    attended: false,
    fallback: null,
    workersChanged: false,
  };
}

/** Ends what runs, if anything does. */
function endEffects(group: Group, reason: string): GroupEffect[] {
  const active = group.phase === 'deploying' || group.phase === 'ready';
  return active ? [{ type: 'end-epoch', epoch: group.epoch, reason }] : [];
}

function begin(
  group: Group,
  request: DeploymentRequest,
  attended: boolean,
  why: string,
): GroupStep {
  const epoch = group.epoch + 1;
  return {
    group: {
      ...group,
      phase: 'deploying',
      epoch,
      request,
      members: new Map(),
      detail: why,
      attended,
      workersChanged: false,
    },
    effects: [...endEffects(group, why), { type: 'start-deployment', epoch, request }],
  };
}

/** What follows a loss: the same model over the workers that are left, however few: they need not wait for the lost one. */
function recover(group: Group, reason: string): GroupStep {
  return restart(group, false, reason);
}

/** The same model over the workers that are there. */
function restart(group: Group, attended: boolean, reason: string): GroupStep {
  if (group.request === null) return { group, effects: [] };
  const step = begin(group, group.request, attended, reason);
  const effects = step.effects.map((effect) =>
    effect.type === 'start-deployment'
      ? { ...effect, request: { ...effect.request, workersMin: 1 } }
      : effect,
  );
  return { ...step, effects };
}

/** Of the current epoch, and of the phase in which such a thing happens. */
function isCurrent(group: Group, event: Extract<GroupEvent, { epoch: number }>): boolean {
  const phase = event.type === 'epoch-failed' ? 'ready' : 'deploying';
  return event.epoch === group.epoch && group.phase === phase;
}

export function applyGroupEvent(group: Group, event: GroupEvent): GroupStep {
  const unchanged: GroupStep = { group, effects: [] };
  if ('epoch' in event && !isCurrent(group, event)) return unchanged;
  switch (event.type) {
    case 'deploy': {
      const { request, attended } = event;
      const fallback = group.attended ? group.fallback : group.request;
      const next = { ...group, fallback: attended ? fallback : null };
      const step = begin(next, request, attended, `deploying ${request.modelPath}`);
      return { ...step, effects: [{ type: 'persist-deployment', request }, ...step.effects] };
    }
    case 'members-chosen':
      return { group: { ...group, members: event.members }, effects: [] };
    case 'serving':
      if (group.members.size === 0) return unchanged;
      return {
        group: { ...group, phase: 'ready', detail: '', attended: false, fallback: null },
        effects: [],
      };
    case 'deploy-failed':
      return deployFailed(group, event.reason);
    case 'replan':
      return restart(group, group.attended, event.reason);
    case 'epoch-failed':
      return recover(group, event.reason);
    case 'worker-lost':
      return workerLost(group, event);
    case 'worker-joined':
      return workersChanged(group, 'a worker joined');
    case 'undeploy':
      return {
        group: { ...initialGroup(group.epoch), detail: '' },
        effects: [
          { type: 'persist-deployment', request: null },
          ...endEffects(group, 'the model was undeployed'),
        ],
      };
  }
}

function workerLost(
  group: Group,
  { id, incarnation, reason }: Extract<GroupEvent, { type: 'worker-lost' }>,
): GroupStep {
  const why = `worker '${id}' was lost: ${reason}`;
  if (group.members.get(id) !== incarnation) return workersChanged(group, why);
  // Whoever waits for the deployment decides what comes next.
  if (group.phase === 'deploying' && group.attended) return deployFailed(group, why);
  return recover(group, why);
}

/** Workers came or went that take no part in what runs. */
function workersChanged(group: Group, why: string): GroupStep {
  if (group.phase === 'waiting') return recover(group, why);
  if (group.phase !== 'deploying') return { group, effects: [] };
  return { group: { ...group, workersChanged: true }, effects: [] };
}

function deployFailed(group: Group, reason: string): GroupStep {
  const effects = endEffects(group, reason);
  if (!group.attended) {
    if (group.workersChanged) return recover(group, reason);
    // Nobody is there to correct it: wait until the cluster changes.
    return { group: { ...group, phase: 'waiting', members: new Map(), detail: reason }, effects };
  }
  const { fallback } = group;
  if (fallback !== null) {
    const step = begin({ ...group, fallback: null }, fallback, false, reason);
    return {
      ...step,
      effects: [{ type: 'persist-deployment', request: fallback }, ...step.effects],
    };
  }
  return {
    group: { ...group, phase: 'failed', request: null, members: new Map(), detail: reason },
    effects: [...effects, { type: 'persist-deployment', request: null }],
  };
}
