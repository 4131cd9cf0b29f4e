import { z } from 'zod';
import { parseBytes } from '../../proto/domain/device.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { PlanDevice, PlanInput, PlanWorkload } from '../../proto/domain/plan.ts';
import {
  nonEmptyText,
  numberFrom,
  parseChecked,
  positive,
  refuseDuplicates,
  refuseField,
  wholeNumber,
} from '../planner/checked-schema.ts';
import {
  ethernetBytesPerSecond,
  type LinkRates,
  linkKinds,
  linkLatencySeconds,
  linkLine,
} from './cluster-link.ts';
import {
  attainedRates,
  attainedShare,
  type DeviceProfile,
  profileLines,
} from './device-profile.ts';
import { deploymentObjective, planModel } from './plan-input.ts';

const linkKind = z.enum(linkKinds, { error: `must be one of ${linkKinds.join(', ')}` });
const bytes = z.union([z.string(), z.number()], {
  error: 'must be a size, for example 40GiB',
});

/** A kind, or a kind with rates that replace the kind's. */
const link = z.preprocess(
  (value) => (typeof value === 'string' ? { kind: value } : value),
  z.strictObject({
    kind: linkKind.default('ethernet'),
    latencySeconds: numberFrom(0, 'a finite number of at least 0 (seconds)').optional(),
    bytesPerSecond: positive.optional(),
  }),
);

const clusterDevice = z.strictObject({
  profile: nonEmptyText,
  count: wholeNumber(1, 4096).default(1),
  /** Default: the profile's name; numbered when there are several. */
  id: nonEmptyText.optional(),
  /** Instead of the profile's. */
  memory: bytes.optional(),
  efficiency: z
    .strictObject({
      memory: attainedShare.optional(),
      compute: attainedShare.optional(),
      launchSecondsPerLayer: numberFrom(0).optional(),
    })
    .optional(),
  link: link.optional(),
});

const cluster = z.strictObject({
  numerics: z.enum(['exact', 'fast'], { error: 'must be exact or fast' }).default('exact'),
  link: link.default({ kind: 'ethernet' }),
  /** Share of a device's memory that weights and KV may take; the rest is for the driver, scratch and activations. */
  memoryShare: attainedShare.default(0.9),
  devices: z
    .array(clusterDevice, { error: 'must be a list of devices' })
    .min(1, { error: 'must name at least one device' })
    .max(4096, { error: 'must have at most 4096 entries' }),
});

/** A cluster file: which devices a site has, by the names of their profiles. */
export type ClusterSpec = z.infer<typeof cluster>;
type ClusterDevice = ClusterSpec['devices'][number];
type ClusterLink = ClusterSpec['link'];

export type DeviceProfiles = ReadonlyMap<string, DeviceProfile>;

const subject = { what: 'cluster file', whole: 'the file' };

/** Checks a cluster file and fills in the defaults. Throws config-invalid naming the first wrong field, its value and the allowed range. */
export function parseCluster(json: unknown): ClusterSpec {
  return parseChecked(cluster, json, subject);
}

function profileOf(entry: ClusterDevice, index: number, profiles: DeviceProfiles): DeviceProfile {
  const profile = profiles.get(entry.profile);
  if (profile !== undefined) return profile;
  const names = [...profiles.keys()].sort().join(', ');
  return refuseField(
    subject,
    `devices[${index}].profile`,
    `is '${entry.profile}'; the profiles are ${names}`,
  );
}

/** Ids of all devices: `a100-40` alone, `a100-40-0`, `a100-40-1` when there are several. */
function deviceIds(spec: ClusterSpec): string[][] {
  const nameOf = (entry: ClusterDevice): string => entry.id ?? entry.profile;
  const totals = new Map<string, number>();
  for (const entry of spec.devices) {
    if (entry.id !== undefined) continue;
    totals.set(entry.profile, (totals.get(entry.profile) ?? 0) + entry.count);
  }
  const next = new Map<string, number>();
  return spec.devices.map((entry) => {
    const total = entry.id === undefined ? (totals.get(entry.profile) ?? 1) : entry.count;
    if (total === 1) return [nameOf(entry)];
    const first = entry.id === undefined ? (next.get(entry.profile) ?? 0) : 0;
    if (entry.id === undefined) next.set(entry.profile, first + entry.count);
    return Array.from({ length: entry.count }, (_, index) => `${nameOf(entry)}-${first + index}`);
  });
}

/** Rate of one device over a kind of link. A sum is as fast as the slowest device of the plan, which the planner finds. */
function rateOfKind(
  kind: ClusterLink['kind'],
  entry: ClusterDevice,
  index: number,
  profile: DeviceProfile,
): number {
  if (kind === 'ethernet') return ethernetBytesPerSecond;
  if (kind === 'pcie') return profile.hostLinkBytesPerSecond.value;
  const rate = profile.interconnectBytesPerSecond.value;
  if (rate !== null) return rate;
  return refuseField(
    subject,
    'link',
    `is 'nvlink'; devices[${index}] (${entry.profile}) has none; write pcie or ethernet, or give bytesPerSecond`,
  );
}

function linkRates(
  spec: ClusterSpec,
  entry: ClusterDevice,
  index: number,
  profile: DeviceProfile,
): LinkRates {
  const { kind, latencySeconds, bytesPerSecond } = entry.link ?? spec.link;
  return {
    latencySeconds: latencySeconds ?? linkLatencySeconds[kind],
    bytesPerSecond: bytesPerSecond ?? rateOfKind(kind, entry, index, profile),
  };
}

function memoryOf(entry: ClusterDevice, index: number, profile: DeviceProfile): number {
  if (entry.memory === undefined) return profile.memoryBytes.value;
  return parseBytes(String(entry.memory), `cluster file: devices[${index}].memory`);
}

/**
 * The planner's input for devices known by their profiles alone: lines from `profileLines`, each device's link from `linkLine`,
 * `1 - memoryShare` of each memory reserved; the objective is that of deployments. Pure. Throws config-invalid for an unknown profile, a size that is none, or two devices of one id.
 */
export function clusterPlanInput(
  spec: ClusterSpec,
  model: ModelSpec,
  workload: PlanWorkload,
  profiles: DeviceProfiles,
): PlanInput {
  const shape = planModel(model);
  const ids = deviceIds(spec);
  const places: string[] = [];
  const devices = spec.devices.flatMap((entry, index): PlanDevice[] => {
    const profile = profileOf(entry, index, profiles);
    const memoryBytes = memoryOf(entry, index, profile);
    const lines = profileLines(attainedRates(profile, model.weightType, entry.efficiency), shape);
    const link = linkLine(linkRates(spec, entry, index, profile), shape, spec.numerics);
    return (ids[index] ?? []).map((id) => {
      places.push(`devices[${index}].id`);
      return {
        id,
        memoryBytes,
        reservedBytes: memoryBytes * (1 - spec.memoryShare),
        ...lines,
        link,
      };
    });
  });
  refuseDuplicates(
    devices.map(({ id }) => id),
    (index) => places[index] ?? '',
    subject,
  );
  return { model: shape, workload, devices, objective: deploymentObjective };
}
