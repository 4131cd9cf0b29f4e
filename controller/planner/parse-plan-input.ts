import { z } from 'zod';
import { type PlanInput, planObjectives, planPolicies } from '../../proto/domain/plan.ts';
import {
  nonEmptyText,
  numberFrom,
  parseChecked,
  planInputSubject,
  positive,
  refuseDuplicates,
  refuseField,
  wholeNumber,
} from './checked-schema.ts';

/** Limits of one plan input: they bound the work before any is done. */
const devicesMax = 4096;
const unitsMax = 2 ** 24;
const linesMax = 4;

const seconds = numberFrom(0, 'a finite number of at least 0 (seconds)');
const coefficient = seconds.optional();

const line = z.strictObject({
  constant: coefficient,
  perHeadGroup: coefficient,
  perFfnColumn: coefficient,
  perVocabRow: coefficient,
  perTokenHeadGroup: coefficient,
  perTokenFfnColumn: coefficient,
  perTokenVocabRow: coefficient,
  perContextHeadGroup: coefficient,
});

const linesError = `must be a latency line or a list of 1 to ${linesMax} of them`;
const lineList = z
  .array(line, { error: linesError })
  .min(1, { error: linesError })
  .max(linesMax, { error: linesError });

const linkCoefficient = seconds.default(0);
const link = z.strictObject({
  constant: linkCoefficient,
  perToken: linkCoefficient,
  perTokenRing: coefficient,
});

const device = z.strictObject({
  id: nonEmptyText,
  memoryBytes: positive,
  reservedBytes: numberFrom(0).default(0),
  decode: lineList,
  prefill: lineList,
  link: link.optional(),
  exchangeLink: link.optional(),
  restore: z
    .strictObject({
      reloadSecondsPerTokenHeadGroup: coefficient,
      hiddenSecondsPerToken: coefficient,
      hiddenSecondsPerTokenHeadGroup: coefficient,
    })
    .optional(),
});

const model = z.strictObject({
  layers: wholeNumber(1, 65536),
  hiddenSize: wholeNumber(1, unitsMax),
  headGroups: wholeNumber(1, 65536),
  queryHeadsPerGroup: wholeNumber(1, 65536),
  headDim: wholeNumber(1, unitsMax),
  ffnColumns: wholeNumber(1, unitsMax),
  ffnGranule: wholeNumber(1, unitsMax),
  ffnMatrices: wholeNumber(2, 3),
  vocabRows: wholeNumber(1, unitsMax),
  weightBytesPerParam: positive,
  embeddingBytesPerParam: positive.optional(),
  headBytesPerParam: positive.optional(),
  kvBytesPerElement: positive,
});

const workload = z.strictObject({
  sequences: wholeNumber(1, unitsMax),
  contextTokens: wholeNumber(1, unitsMax),
  prefillChunk: wholeNumber(1, unitsMax),
  outputTokens: wholeNumber(0, unitsMax).default(0),
  allowEviction: z.boolean({ error: 'must be true or false' }).default(false),
  allowRemoteKv: z.boolean({ error: 'must be true or false' }).optional(),
  stepSecondsMax: positive.optional(),
  tokensPerSecondMin: positive.optional(),
});

const planInput = z.strictObject({
  model,
  workload,
  devices: z
    .array(device, { error: 'must be a list of devices' })
    .min(1, { error: 'must name at least one device' })
    .max(devicesMax, { error: `must name at most ${devicesMax} devices` }),
  link: link.optional(),
  policy: z
    .enum(planPolicies, { error: `must be one of ${planPolicies.join(', ')}` })
    .default('hels'),
  objective: z
    .enum(planObjectives, { error: `must be one of ${planObjectives.join(', ')}` })
    .default('step'),
  loanBlockTokens: wholeNumber(1, unitsMax).optional(),
});

/** The search for `step` relies on links that do not depend on who takes part. */
function refuseRingInStep({ devices, link: shared, objective }: PlanInput): void {
  if (objective === 'lockstep') return;
  const why = "is for objective 'lockstep'; give that, or write what all devices pay into perToken";
  if ((shared?.perTokenRing ?? 0) > 0) refuseField(planInputSubject, 'link.perTokenRing', why);
  const index = devices.findIndex((entry) => (entry.link?.perTokenRing ?? 0) > 0);
  if (index >= 0) refuseField(planInputSubject, `devices[${index}].link.perTokenRing`, why);
}

/** Whether KV fits is then a matter of all devices in use, which the search for `step` does not know. */
function refuseRemoteInStep({ workload, objective }: PlanInput): void {
  if (objective === 'lockstep' || workload.allowRemoteKv !== true) return;
  const why = "is true; it is for objective 'lockstep': give that, or leave it out";
  refuseField(planInputSubject, 'workload.allowRemoteKv', why);
}

type Fields = Record<string, unknown>;

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Objects that may be left out: null says the same, as writers of optional values have it. */
const optionalObjects: ReadonlySet<string> = new Set(['link', 'restore']);

function withoutNulls(fields: Fields): Fields {
  const kept = Object.entries(fields).filter(
    ([name, value]) => value !== null || !optionalObjects.has(name),
  );
  return Object.fromEntries(kept);
}

/** One way to write what may be written in two: no null, and a latency line as a list of one, so that an error names its coefficient. */
function normalized(json: unknown): unknown {
  if (!isObject(json)) return json;
  const input = withoutNulls(json);
  if (!Array.isArray(input['devices'])) return input;
  const asList = (value: unknown): unknown => (isObject(value) ? [value] : value);
  const devices = input['devices'].map((entry: unknown) => {
    if (!isObject(entry)) return entry;
    const { decode, prefill, ...rest } = withoutNulls(entry);
    return { ...rest, decode: asList(decode), prefill: asList(prefill) };
  });
  return { ...input, devices };
}

/**
 * Checks a plan input and fills in the defaults (policy hels, no eviction, nothing reserved, links that cost nothing). Throws config-invalid naming the first
 * wrong field, its value and the allowed range. Lines come out as lists.
 */
export function parsePlanInput(json: unknown): PlanInput {
  const parsed = parseChecked(planInput, normalized(json), planInputSubject);
  refuseDuplicates(
    parsed.devices.map(({ id }) => id),
    (index) => `devices[${index}].id`,
    planInputSubject,
  );
  refuseRingInStep(parsed as PlanInput);
  refuseRemoteInStep(parsed as PlanInput);
  return parsed as PlanInput;
}
