/** A model served by two equal workers, and proposals over it: plans are really made. */
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import type { LoadedGroup } from '../../../controller/deployment/deployment-run.ts';
import { smallestSizes } from '../../../controller/deployment/engine-sizes.ts';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import { makePlan, type PlanRequest } from '../../../controller/deployment/make-plan.ts';
import {
  draftReplan,
  type Proposal,
  proposalOf,
  type ReplanWish,
} from '../../../controller/deployment/replan-proposal.ts';
import type { ProfiledDevice } from '../../../controller/profiler/plan-input.ts';
import { smallModel } from '../profiler/models.ts';

export const ids = ['a', 'b'];
const line = { perHeadGroup: 1e-3, perFfnColumn: 1e-5, perVocabRow: 1e-7 };
export const device = (id: string): ProfiledDevice => ({
  id,
  memoryBytes: 2 ** 26,
  reservedBytes: 0,
  decode: [line],
  prefill: [{ ...line, perTokenHeadGroup: 1e-5 }],
  link: { constant: 1e-5, perToken: 1e-6 },
});
export const request: DeploymentRequest = {
  modelPath: '/m',
  modelId: 'm',
  policy: 'hels',
  numerics: 'exact',
  quantization: 'auto',
  workersMin: 1,
  workload: null,
  ranks: [],
};
const planRequest: PlanRequest = {
  epoch: 1,
  modelId: 'm',
  modelPath: '/m',
  modelDigest: 'd',
  model: smallModel,
  devices: ids.map(device),
  workload: { sequences: 8, contextTokens: 256, prefillChunk: 256, outputTokens: 128 },
  policy: 'hels',
  manual: [],
  numerics: 'exact',
  stepTokensMax: 512,
  sequencesMax: 64,
  kvBlockTokens: 16,
  parks: true,
  settles: false,
};
const candidates = ids.map((id) => ({
  id,
  incarnation: `${id}1`,
  device: { kind: 'cpu' },
}));
export const loaded = {
  ...makePlan(planRequest, () => 0),
  planRequest,
  candidates,
  workers: candidates,
  profiles: new Map(ids.map((id) => [id, { copyBytesPerSecond: 1e9 }])),
  loadRates: new Map([
    ['a', 1e6],
    ['b', 2e6],
  ]),
  profiledSizes: smallestSizes,
  connectSeconds: 0.5,
  trialRatios: new Map(),
  leftOut: [],
} as unknown as LoadedGroup;

export const nothing: ReplanWish = { policy: '', workload: null, ranks: [] };
export const available = candidates as unknown as readonly GroupWorker[];
/** Device a takes so many times what its lines say. */
export const slower = (times: number) => (devices: readonly ProfiledDevice[]) =>
  devices.map((one) =>
    one.id === 'a'
      ? { ...one, decode: [{ perHeadGroup: 1e-3 * times, perFfnColumn: 1e-5 * times }] }
      : { ...one },
  );

export function propose(wish: Partial<ReplanWish>, changes: object = {}): Proposal {
  const asIs = (devices: readonly ProfiledDevice[]) => [...devices];
  const proposing = { loaded, request, available, refine: asIs };
  const draft = draftReplan({ ...proposing, wish: { ...nothing, ...wish }, ...changes });
  return proposalOf(
    draft,
    makePlan(draft.planRequest, () => 0),
  );
}
