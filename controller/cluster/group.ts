import type { KvPolicy } from '../../proto/domain/kv-policy.ts';

/**
 * The life of the one group that serves a model. Pure: (state, event) -> (state, effects).
 *
 *            deploy                     members-chosen, serving
 *   empty ------------> deploying(epoch) ------------------------> ready
 *     ^                  |  ^  ^                                     |
 *     | undeploy         |  |  +-- worker-lost, epoch-failed --------+   epoch + 1, over the workers that are left
 *     | (from anywhere)  |  +-- a worker joins or is lost, retry-due -- waiting
 *                        |                                    ^
 *                        +-- deploy-failed, unattended -------+   at once again when the workers changed meanwhile
 *                        +-- deploy-failed, attended: back to what served before, else --> failed
 *                        +-- replan: epoch + 1 over the same workers, for whoever waited before
 *
 *           replan-begun              serving
 *   ready ---------------> replanning --------> ready       the requests of the old epoch go on in the new one
 *                            |    ^
 *              replan-failed |    | once: back to the old plan under epoch + 1, while all of its workers are there
 *                            +----+ twice, or without them: as after a loss
 *
 * The loss of one of its workers fails a deployment under way. Epochs only grow; an event of another epoch than the current one
 * changes nothing, and the loss of a worker that takes no part does not disturb what runs. A deployment that somebody asked for is
 * remembered once it serves: a controller that takes over before goes on with what served last.
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
  /** The controller plans anew by itself when the load or the lines call for it. Absent: true. */
  autoReplan?: boolean;
  /** When KV runs out; absent: evict. */
  kvPolicy?: KvPolicy;
}

type GroupPhase = 'empty' | 'deploying' | 'ready' | 'replanning' | 'waiting' | 'failed';

type Members = ReadonlyMap<string, string>;

/** A re-plan under way. */
interface Replan {
  /** What is served when it is done. */
  readonly request: DeploymentRequest;
  /** The workers of the plan to go back to; null: there is no way back. */
  readonly formerMembers: Members | null;
}

export interface Group {
  readonly phase: GroupPhase;
  /** The newest epoch begun. */
  readonly epoch: number;
  readonly request: DeploymentRequest | null;
  /** Worker id -> incarnation, of the epoch's workers; empty until the plan has chosen them. */
  readonly members: Members;
  /** Not null exactly while re-planning. */
  readonly replan: Replan | null;
  /** Why the group does not serve; empty when it does. */
  readonly detail: string;
  /** A person waits for this deployment: its failure is theirs to see, not a reason to try again. */
  readonly attended: boolean;
  /** What served before an attended deployment: it comes back when that one fails. */
  readonly fallback: DeploymentRequest | null;
  /** A worker joined or was lost since this attempt began: should it fail, the next one may not. */
  readonly workersChanged: boolean;
  /** Unattended attempts that failed since something served. */
  readonly failures: number;
}

export type GroupEvent =
  | { type: 'deploy'; request: DeploymentRequest; attended: boolean }
  | { type: 'members-chosen'; epoch: number; members: Members }
  | { type: 'serving'; epoch: number }
  | { type: 'deploy-failed'; epoch: number; reason: string }
  /** The warm-up has shown that another split is worth loading. */
  | { type: 'replan'; epoch: number; reason: string }
  /** What serves is to go on over another plan of these workers. */
  | {
      type: 'replan-begun';
      epoch: number;
      request: DeploymentRequest;
      members: Members;
      reason: string;
    }
  /** Another wish, which the plan that serves fulfils already. */
  | { type: 'request-changed'; epoch: number; request: DeploymentRequest }
  /** The new plan did not come to serve; the requests wait. */
  | { type: 'replan-failed'; epoch: number; reason: string }
  | { type: 'epoch-failed'; epoch: number; reason: string }
  | { type: 'worker-lost'; id: string; incarnation: string; reason: string }
  | { type: 'worker-joined' }
  /** It has waited for `retryDelayMs`. */
  | { type: 'retry-due' }
  | { type: 'undeploy' };

export type GroupEffect =
  /** The ranks free what they hold; the epoch's requests wait for another (engine/survivors.ts). */
  | { type: 'end-epoch'; epoch: number; reason: string }
  /** Run a deployment under this epoch; whatever runs for an older one stops. */
  | { type: 'start-deployment'; epoch: number; request: DeploymentRequest }
  /** Bring the requests over to this epoch: to the new plan, or back to the old one. */
  | { type: 'start-replan'; epoch: number; back: boolean }
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
    replan: null,
    detail: '',
    attended: false,
    fallback: null,
    workersChanged: false,
    failures: 0,
  };
}

const firstRetryMs = 5_000;
const retryMsMax = 300_000;

/** How long a group that waits gives whatever was wrong before it tries again: what passed, passed, and what did not costs little. */
export function retryDelayMs({ failures }: Group): number {
  return Math.min(retryMsMax, firstRetryMs * 2 ** Math.max(0, failures - 1));
}

/** Requests are served, or wait for a moment. */
export function isServing({ phase }: Pick<Group, 'phase'>): boolean {
  return phase === 'ready' || phase === 'replanning';
}

/** What does not serve yet and is to, by itself: what is being brought up, and what comes back if that fails. */
export function comingRequests({ phase, request, fallback }: Group): DeploymentRequest[] {
  if (phase !== 'deploying' && phase !== 'waiting') return [];
  return [request, fallback].filter((one) => one !== null);
}

/** What is being brought up or served; of a re-plan under way, what it goes to. */
export function nextRequest({ replan, request }: Group): DeploymentRequest | null {
  return replan?.request ?? request;
}

/** Ends what runs, if anything does. */
function endEffects(group: Group, reason: string): GroupEffect[] {
  const active = group.phase === 'deploying' || isServing(group);
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
      replan: null,
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
  return overThoseThere(begin(group, group.request, attended, reason));
}

function overThoseThere({ group, effects }: GroupStep): GroupStep {
  const overAny = (effect: GroupEffect) =>
    effect.type === 'start-deployment'
      ? { ...effect, request: { ...effect.request, workersMin: 1 } }
      : effect;
  return { group, effects: effects.map(overAny) };
}

/** Of the current epoch, and of the phase in which such a thing happens. */
function isCurrent(group: Group, event: Extract<GroupEvent, { epoch: number }>): boolean {
  const phases: Record<typeof event.type, readonly GroupPhase[]> = {
    'members-chosen': ['deploying'],
    serving: ['deploying', 'replanning'],
    'deploy-failed': ['deploying'],
    replan: ['deploying'],
    'replan-begun': ['ready'],
    'request-changed': ['ready'],
    'replan-failed': ['replanning'],
    'epoch-failed': ['ready', 'replanning'],
  };
  return event.epoch === group.epoch && phases[event.type].includes(group.phase);
}

export function applyGroupEvent(group: Group, event: GroupEvent): GroupStep {
  const unchanged: GroupStep = { group, effects: [] };
  if ('epoch' in event && !isCurrent(group, event)) return unchanged;
  switch (event.type) {
    case 'deploy': {
      const { request, attended } = event;
      const fallback = group.attended ? group.fallback : group.request;
      const next = { ...group, fallback: attended ? fallback : null };
      const why = `deploying ${request.modelPath}`;
      const isReplaced = group.phase === 'deploying' && group.attended;
      const reason = isReplaced ? `another deployment took its place: ${why}` : why;
      const step = begin(next, request, attended, reason);
      return { ...step, group: { ...step.group, failures: 0 } };
    }
    case 'members-chosen':
      return { group: { ...group, members: event.members }, effects: [] };
    case 'serving':
      return group.members.size === 0 ? unchanged : serving(group);
    case 'deploy-failed':
      return deployFailed(group, event.reason);
    case 'replan':
      return restart(group, group.attended, event.reason);
    case 'replan-begun':
      return beginReplan(group, event);
    case 'request-changed': {
      const { request } = event;
      return {
        group: { ...group, request },
        effects: [{ type: 'persist-deployment', request }],
      };
    }
    case 'replan-failed':
      return replanFailed(group, event.reason);
    case 'epoch-failed':
      return recover(group, event.reason);
    case 'worker-lost':
      return workerLost(group, event);
    case 'worker-joined':
      return workersChanged(group, 'a worker joined');
    case 'retry-due':
      return group.phase === 'waiting' ? recover(group, group.detail) : unchanged;
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

/** Unattended deployments come from the store, or from a file that may change before the next start. */
function serving(group: Group): GroupStep {
  const request = nextRequest(group);
  const isNew = group.attended || request !== group.request;
  const ready = { phase: 'ready', replan: null, detail: '', attended: false, failures: 0 } as const;
  return {
    group: { ...group, ...ready, request, fallback: null },
    effects: isNew ? [{ type: 'persist-deployment', request }] : [],
  };
}

function beginReplan(
  group: Group,
  { request, members, reason }: Extract<GroupEvent, { type: 'replan-begun' }>,
): GroupStep {
  const epoch = group.epoch + 1;
  const replan = { request, formerMembers: group.members };
  return {
    group: { ...group, phase: 'replanning', epoch, members, replan, detail: reason },
    effects: [{ type: 'start-replan', epoch, back: false }],
  };
}

/** The workers of the old plan have nothing else to do than to take it up again. */
function replanFailed(group: Group, reason: string): GroupStep {
  const members = group.replan?.formerMembers ?? null;
  if (group.request === null || members === null) return recover(group, reason);
  const epoch = group.epoch + 1;
  const replan = { request: group.request, formerMembers: null };
  return {
    group: { ...group, epoch, members, replan, detail: reason },
    effects: [{ type: 'start-replan', epoch, back: true }],
  };
}

function workerLost(
  group: Group,
  { id, incarnation, reason }: Extract<GroupEvent, { type: 'worker-lost' }>,
): GroupStep {
  const why = `worker '${id}' was lost: ${reason}`;
  const former = group.replan?.formerMembers?.get(id) === incarnation;
  if (group.members.get(id) !== incarnation) {
    if (!former || group.replan === null) return workersChanged(group, why);
    // It leaves the plan anyway, but there is no way back without it.
    return { group: { ...group, replan: { ...group.replan, formerMembers: null } }, effects: [] };
  }
  if (group.phase === 'replanning' && !former) return replanFailed(group, why);
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
    // Nobody is there to correct it: wait until the cluster changes, or what was wrong has passed.
    const failures = group.failures + 1;
    const waiting = { phase: 'waiting', members: new Map(), detail: reason, failures } as const;
    return { group: { ...group, ...waiting }, effects };
  }
  const { fallback } = group;
  if (fallback !== null) {
    return overThoseThere(begin({ ...group, fallback: null }, fallback, false, reason));
  }
  return {
    group: { ...group, phase: 'failed', request: null, members: new Map(), detail: reason },
    effects,
  };
}
