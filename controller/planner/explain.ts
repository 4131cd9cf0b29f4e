import { formatBytes } from '../../proto/domain/device.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { obstacleOf, reliefOf, type Units, withUnit } from './binding-constraint.ts';
import { decodeLinkSeconds, evaluateShares, kvTokensOf, linesSeconds } from './evaluate.ts';
import { type ClusterChange, clusterChanges } from './explain-changes.ts';
import { type EvictionExplanation, explainEviction } from './explain-eviction.ts';
import { explainLoans, type LoanExplanation } from './explain-loans.ts';
import { longestWaitFor, meetingsText, secondsAfterMove } from './explain-lockstep.ts';
import { parsePlanInput } from './parse-plan-input.ts';
import { plannedShares } from './planned-shares.ts';
import { compileProblem, type Problem, type ProblemDevice, type Share } from './problem.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

/** What a device does while the slowest one works, and why it does not do more. */
interface DeviceExplanation {
  readonly device: string;
  readonly used: boolean;
  /** Decode seconds of the device, link included; 0 when it is not used. */
  readonly seconds: number;
  /** Seconds of a step in which it waits for the slowest device. */
  readonly idleSeconds: number;
  /** The device that it waits for, in lockstep the one that it waits for longest; null when it waits for none. */
  readonly waitsFor: string | null;
  /**
   * Why it takes no further unit from the slowest device, in lockstep the one with the longest own step; `link`: one device more on the link
   * takes longer than the unit saves; `policy`: it could, but the policy does not look. Null for the slowest.
   */
  readonly obstacle: 'granularity' | 'kv' | 'memory' | 'link' | 'policy' | null;
  /** Memory that neither its weights nor the KV that all ranks can hold together will ever use. */
  readonly strandedBytes: number;
  readonly text: string;
}

export interface Explanation {
  readonly binding: {
    readonly constraint: PlanOutput['predicted']['bindingConstraint'];
    /** Devices at which it binds: the slowest for compute and link, else those that idle or lack because of it. */
    readonly devices: readonly string[];
    readonly text: string;
  };
  readonly devices: readonly DeviceExplanation[];
  /** Plans of policy hels for the same workload on a slightly different cluster. */
  readonly changes: readonly ClusterChange[];
  /** When KV on other ranks pays; only where the workload allows it, or where it would. */
  readonly loans?: LoanExplanation;
  /** What evicting costs; only where the workload allows it. */
  readonly eviction?: EvictionExplanation;
}

const milliseconds = (seconds: number): string => `${(seconds * 1e3).toFixed(2)} ms`;
const size = (bytes: number): string => formatBytes(Math.ceil(bytes));

/** The step is the same when it differs by less: two devices share the slowest place. */
const tieShare = 1e-6;

function unitName(unit: Units): string {
  if (unit.headGroups > 0) return 'a head group';
  return unit.ffnColumns > 0 ? `${unit.ffnColumns} FFN columns` : 'a vocabulary row';
}

interface Setting {
  readonly problem: Problem;
  readonly shares: readonly Share[];
  readonly plan: PlanOutput;
  /** Index of the device that the others wait for. */
  readonly slowest: number;
  readonly unit: Units;
  readonly linked: boolean;
  /** Several ranks that wait for each other within every layer. */
  readonly lockstep: boolean;
}

function settingOf(input: PlanInput, plan: PlanOutput): Setting {
  const problem = compileProblem(input, plan.eviction?.residentSequences);
  const shares = plannedShares(input, plan);
  const { perRankSeconds } = plan.predicted;
  const slowestRank = perRankSeconds.indexOf(Math.max(...perRankSeconds));
  const slowestId = plan.ranks[slowestRank]?.device;
  const slowest = problem.devices.findIndex(({ id }) => id === slowestId);
  const unit = reliefOf(
    problem,
    problem.devices[slowest] as ProblemDevice,
    shares[slowest] as Share,
  );
  const linked = plan.ranks.length > 1;
  return { problem, shares, plan, slowest, unit, linked, lockstep: problem.lockstep && linked };
}

const linkOfPlan = (problem: Problem, { ranks }: PlanOutput, device: ProblemDevice): number =>
  decodeLinkSeconds(problem, device, ranks.length);

function secondsOf({ problem, plan }: Setting, device: ProblemDevice, share: Share): number {
  if (!isUsed(share)) return 0;
  // With loans a rank also attends for others, and others for it: the plan has counted that.
  const rank = plan.ranks.findIndex((candidate) => candidate.device === device.id);
  if (problem.remote !== null && rank >= 0) return plan.predicted.perRankSeconds[rank] ?? 0;
  return linesSeconds(device.decode, share) + linkOfPlan(problem, plan, device);
}

/** Room that the plan cannot use: KV follows the heads, so the rank with the least room limits all. */
function strandedBytesOf({ problem, plan }: Setting, device: ProblemDevice, share: Share): number {
  const { kvTokensTotal } = plan.predicted;
  const rank = plan.ranks.find((candidate) => candidate.device === device.id);
  const kv =
    plan.kvLoans === undefined
      ? kvTokensTotal * problem.footprint.kvPerTokenHeadGroup * share.headGroups
      : (rank?.kvBytes ?? 0);
  return Math.max(0, device.roomBytes - weightBytes(problem, share) - kv);
}

/** Bytes by which a share and its KV exceed the device. */
function lackingBytes(problem: Problem, device: ProblemDevice, share: Share): number {
  const kv = problem.residentTokens * problem.footprint.kvPerTokenHeadGroup * share.headGroups;
  return weightBytes(problem, share) + kv - device.roomBytes;
}

type Reason = Pick<DeviceExplanation, 'obstacle' | 'text'>;

/** The same devices with a link that takes no time. */
const withoutLink = (problem: Problem): Problem => ({
  ...problem,
  devices: problem.devices.map((device) => ({ ...device, decodeLink: 0, decodeRing: 0 })),
});

/**
 * Judged by the step of the whole group with the unit moved: in lockstep it is not one rank's alone, and with one device more all of them
 * pay another link, the only one of a plan its first.
 */
function groupReasonOf(setting: Setting, index: number, more: Share): Reason {
  const { problem, shares, plan, slowest } = setting;
  const move = { from: slowest, to: index, more };
  const after = secondsAfterMove(problem, shares, move);
  const { decodeSeconds } = plan.predicted;
  const unit = unitName(setting.unit);
  const from = `more from ${problem.devices[slowest]?.id}`;
  if (after < decodeSeconds * (1 - tieShare)) {
    return {
      obstacle: 'policy',
      text: `could take ${unit} ${from} (the step would be ${milliseconds(after)}); policy ${plan.policy} does not move it`,
    };
  }
  const takesNo = `takes no ${unit.replace(/^a /, '')} ${from}`;
  const seconds = `the step would be ${milliseconds(after)}, it is ${milliseconds(decodeSeconds)}`;
  const linkless = withoutLink(problem);
  const now = evaluateShares(linkless, shares).decodeSeconds;
  if (
    !isUsed(shares[index] as Share) &&
    secondsAfterMove(linkless, shares, move) < now * (1 - tieShare)
  ) {
    return {
      obstacle: 'link',
      text: `${takesNo}: with one device more on the link ${seconds}`,
    };
  }
  return { obstacle: 'granularity', text: `${takesNo}: ${seconds}` };
}

/** Why a device that waits takes no unit of the slowest one. */
function reasonOf(setting: Setting, index: number): Reason {
  const { problem, unit, plan } = setting;
  const device = problem.devices[index] as ProblemDevice;
  const share = setting.shares[index] as Share;
  const more = withUnit(share, unit);
  const obstacle = obstacleOf(problem, device, share, unit);
  const name = unitName(unit);
  if (obstacle !== 'granularity') {
    const lacks = size(lackingBytes(problem, device, more));
    const what = obstacle === 'kv' ? 'the KV of the workload beside it' : 'its weights';
    return { obstacle, text: `cannot take ${name} more: ${lacks} lack for ${what}` };
  }
  if (setting.lockstep || !isUsed(share)) return groupReasonOf(setting, index, more);
  const after = linesSeconds(device.decode, more) + linkOfPlan(problem, plan, device);
  const { decodeSeconds } = plan.predicted;
  if (after >= decodeSeconds * (1 - tieShare)) {
    return {
      obstacle,
      text: `cannot take ${name} more: its step would be ${milliseconds(after)}, the slowest is ${milliseconds(decodeSeconds)}`,
    };
  }
  const ties = plan.predicted.perRankSeconds.filter(
    (seconds) => seconds >= decodeSeconds * (1 - tieShare),
  ).length;
  if (ties > 1) {
    return {
      obstacle,
      text: `could take ${name} more (${milliseconds(after)}), but ${ties} ranks share the slowest step`,
    };
  }
  return {
    obstacle: 'policy',
    text: `could take ${name} more (${milliseconds(after)}); policy ${plan.policy} does not move it`,
  };
}

function explainDevice(setting: Setting, index: number): DeviceExplanation {
  const device = setting.problem.devices[index] as ProblemDevice;
  const share = setting.shares[index] as Share;
  const used = isUsed(share);
  const seconds = secondsOf(setting, device, share);
  const idleSeconds = Math.max(0, setting.plan.predicted.decodeSeconds - seconds);
  const strandedBytes = strandedBytesOf(setting, device, share);
  const common = { device: device.id, used, seconds, idleSeconds, strandedBytes };
  const slowest = setting.problem.devices[setting.slowest] as ProblemDevice;
  const waitsFor = setting.lockstep
    ? longestWaitFor(setting.problem, setting.shares, device)
    : slowest.id;
  if (index === setting.slowest) {
    const onLink = milliseconds(linkOfPlan(setting.problem, setting.plan, device));
    const link = setting.linked ? `, ${onLink} of it on the link` : '';
    return setting.lockstep
      ? {
          ...common,
          waitsFor,
          obstacle: null,
          text: `has the longest own step: ${milliseconds(seconds)}${link}`,
        }
      : {
          ...common,
          waitsFor: null,
          obstacle: null,
          text: `is the slowest: all wait for its ${milliseconds(seconds)}${link}`,
        };
  }
  const { obstacle, text } = reasonOf(setting, index);
  const waits = used ? `waits ${milliseconds(idleSeconds)} a step` : 'is left out';
  return { ...common, waitsFor, obstacle, text: `${waits}; it ${text}` };
}

/** Devices at which the constraint binds. */
function bindingDevices(setting: Setting, devices: readonly DeviceExplanation[]): string[] {
  const { plan, problem } = setting;
  const { bindingConstraint } = plan.predicted;
  if (!plan.feasible) {
    const lacking = problem.devices.filter((device, index) => {
      const share = setting.shares[index] as Share;
      return isUsed(share) && lackingBytes(problem, device, share) > 0;
    });
    return lacking.map(({ id }) => id);
  }
  if (bindingConstraint === 'compute' || bindingConstraint === 'link') {
    return [(problem.devices[setting.slowest] as ProblemDevice).id];
  }
  const matches = (obstacle: DeviceExplanation['obstacle']): boolean =>
    obstacle === bindingConstraint ||
    (bindingConstraint === 'granularity' && obstacle === 'policy');
  return devices
    .filter(({ used, obstacle }) => used && matches(obstacle))
    .map(({ device }) => device);
}

const meanings = {
  compute: 'no used device idles: only faster devices or more of them can shorten the step',
  link: 'most of the slowest step is the link: fewer devices or a faster network shorten it',
  memory: 'devices that idle have no room for the weights of a further unit',
  kv: 'devices that idle have no room for the KV of a further unit',
  granularity: 'devices that idle cannot take a whole unit within the step',
} as const;

/** In place of `compute` where one device does everything. */
const meaningOfOne =
  'one device does all of it: a faster one shortens the step, a second one only if it saves more than the link takes';

function meaningOf({ plan, linked }: Setting): string {
  const { bindingConstraint } = plan.predicted;
  return bindingConstraint === 'compute' && !linked ? meaningOfOne : meanings[bindingConstraint];
}

function kvLimit(setting: Setting): string {
  let limiting = '';
  let least = Number.POSITIVE_INFINITY;
  for (const [index, device] of setting.problem.devices.entries()) {
    const tokens = kvTokensOf(setting.problem, device, setting.shares[index] as Share);
    if (tokens !== null && tokens < least) [limiting, least] = [device.id, tokens];
  }
  const total = `KV for ${setting.plan.predicted.kvTokensTotal} tokens`;
  const { kvLoans } = setting.plan;
  if (kvLoans === undefined) return `${total}, limited by ${limiting}`;
  const lent = kvLoans.map(
    ({ owner, holder, tokens: [begin, end] }) => `${end - begin} of ${owner}'s on ${holder}`,
  );
  return lent.length === 0 ? total : `${total}, ${lent.join(', ')}`;
}

/**
 * Why a plan is as it is: what binds and where, what each device waits for, which memory is stranded, and what one device less, more or
 * exchanged would change. `plan` must be that of `input`. Pure; the changes cost at most 24 plans.
 */
export function explain(unchecked: PlanInput, plan: PlanOutput): Explanation {
  const input = parsePlanInput(unchecked);
  const setting = settingOf(input, plan);
  const devices = input.devices.map((_, index) => explainDevice(setting, index));
  const constraint = plan.predicted.bindingConstraint;
  const meetings = setting.lockstep ? `; ${meetingsText(setting.problem, setting.shares)}` : '';
  const text = plan.feasible
    ? `${constraint}: ${meaningOf(setting)}; ${kvLimit(setting)}${meetings}`
    : `not feasible: ${plan.reason ?? constraint}`;
  const loans = explainLoans(input, plan);
  const eviction = explainEviction(input, plan);
  return {
    binding: { constraint, devices: bindingDevices(setting, devices), text },
    devices,
    changes: clusterChanges(input, plan),
    ...(loans === null ? {} : { loans }),
    ...(eviction === null ? {} : { eviction }),
  };
}
