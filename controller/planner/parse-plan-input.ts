import { z } from 'zod';
import { HelsError } from '../../proto/domain/errors.ts';
import { type PlanInput, planPolicies } from '../../proto/domain/plan.ts';

/** Limits of one plan input: they bound the work before any is done. */
const devicesMax = 4096;
const unitsMax = 2 ** 24;
const linesMax = 4;

/** A finite number from `low` on. */
const numberFrom = (low: number, what = `a number of at least ${low}`): z.ZodNumber =>
  z.number({ error: `must be ${what}` }).min(low, { error: `must be ${what}` });

/** A whole number in a closed range. */
function wholeNumber(low: number, high: number): z.ZodNumber {
  const error = `must be a whole number from ${low} to ${high}`;
  return z.number({ error }).int({ error }).min(low, { error }).max(high, { error });
}

const positive = z
  .number({ error: 'must be a number above 0' })
  .positive({ error: 'must be a number above 0' });

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

const link = z.strictObject({ constant: seconds, perToken: seconds });

const device = z.strictObject({
  id: z.string({ error: 'must be a text' }).min(1, { error: 'must not be empty' }),
  memoryBytes: positive,
  reservedBytes: numberFrom(0).default(0),
  decode: lineList,
  prefill: lineList,
  link: link.optional(),
  restore: z
    .strictObject({
      reloadSecondsPerTokenHeadGroup: seconds,
      hiddenSecondsPerToken: seconds,
      hiddenSecondsPerTokenHeadGroup: seconds,
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
  kvBytesPerElement: positive,
});

const workload = z.strictObject({
  sequences: wholeNumber(1, unitsMax),
  contextTokens: wholeNumber(1, unitsMax),
  prefillChunk: wholeNumber(1, unitsMax),
  outputTokens: wholeNumber(0, unitsMax).default(0),
  allowEviction: z.boolean({ error: 'must be true or false' }).default(false),
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
});

/** `["devices", 1, "decode"]` -> `devices[1].decode`. */
function pathText(path: readonly PropertyKey[]): string {
  const text = path
    .map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))
    .join('');
  return text.replace(/^\./, '');
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

/** A value as a person reads it, cut to one short line. */
function valueText(value: unknown): string {
  if (value === undefined) return 'missing';
  if (typeof value === 'number') return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function fail(field: string, message: string): never {
  throw new HelsError('config-invalid', `plan input: ${field} ${message}`, { field });
}

/** A single latency line as a list of one, so that an error names the coefficient and not the union. */
function withLineLists(json: unknown): unknown {
  if (typeof json !== 'object' || json === null || !('devices' in json)) return json;
  if (!Array.isArray(json.devices)) return json;
  const asList = (value: unknown): unknown =>
    typeof value === 'object' && value !== null && !Array.isArray(value) ? [value] : value;
  const devices = json.devices.map((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null) return entry;
    const { decode, prefill, ...rest } = entry as Record<string, unknown>;
    return { ...rest, decode: asList(decode), prefill: asList(prefill) };
  });
  return { ...json, devices };
}

function checkIssue(json: unknown, issue: z.core.$ZodIssue): never {
  if (issue.code === 'unrecognized_keys') {
    const field = pathText([...issue.path, issue.keys[0] ?? '']);
    fail(field, 'is not a field of the plan input; remove it or correct its name');
  }
  const field = pathText(issue.path) || 'the input';
  const isObject = issue.code === 'invalid_type' && issue.expected === 'object';
  const must = isObject ? 'must be an object' : issue.message;
  fail(field, `is ${valueText(valueAt(json, issue.path))}; it ${must}`);
}

/**
 * Checks a plan input and fills in the defaults (policy hels, no eviction, nothing reserved). Throws config-invalid naming the first
 * wrong field, its value and the allowed range. Lines come out as lists.
 */
export function parsePlanInput(json: unknown): PlanInput {
  const listed = withLineLists(json);
  const parsed = planInput.safeParse(listed);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    if (issue === undefined) fail('the input', 'is not a plan input');
    checkIssue(listed, issue);
  }
  const seen = new Map<string, number>();
  for (const [index, { id }] of parsed.data.devices.entries()) {
    const earlier = seen.get(id);
    if (earlier !== undefined) {
      fail(
        `devices[${index}].id`,
        `is '${id}' like devices[${earlier}].id; every device needs its own id`,
      );
    }
    seen.set(id, index);
  }
  return parsed.data as PlanInput;
}
