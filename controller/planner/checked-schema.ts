import { z } from 'zod';
import { HelsError } from '../../proto/domain/errors.ts';

/** A finite number from `low` on. */
export const numberFrom = (low: number, what = `a number of at least ${low}`): z.ZodNumber =>
  z.number({ error: `must be ${what}` }).min(low, { error: `must be ${what}` });

/** A whole number in a closed range. */
export function wholeNumber(low: number, high: number): z.ZodNumber {
  const error = `must be a whole number from ${low} to ${high}`;
  return z.number({ error }).int({ error }).min(low, { error }).max(high, { error });
}

export const positive = z
  .number({ error: 'must be a number above 0' })
  .positive({ error: 'must be a number above 0' });

/** A text that says something. */
export const nonEmptyText = z
  .string({ error: 'must be a text' })
  .min(1, { error: 'must not be empty' });

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

/** What a checked file is called in errors: `what` it is (`plan input`) and `whole`, its outermost value (`the input`). */
export interface Subject {
  readonly what: string;
  readonly whole: string;
}

export const planInputSubject: Subject = { what: 'plan input', whole: 'the input' };

/** Throws config-invalid naming the field. */
export function refuseField(subject: Subject, field: string, message: string): never {
  throw new HelsError('config-invalid', `${subject.what}: ${field} ${message}`, { field });
}

function refuseIssue(subject: Subject, json: unknown, issue: z.core.$ZodIssue): never {
  if (issue.code === 'unrecognized_keys') {
    const field = pathText([...issue.path, issue.keys[0] ?? '']);
    refuseField(
      subject,
      field,
      `is not a field of the ${subject.what}; remove it or correct its name`,
    );
  }
  const field = pathText(issue.path) || subject.whole;
  refuseField(subject, field, problemText(json, issue));
}

function problemText(root: unknown, issue: z.core.$ZodIssue): string {
  const isObject = issue.code === 'invalid_type' && issue.expected === 'object';
  const must = isObject ? 'must be an object' : issue.message;
  return `is ${valueText(valueAt(root, issue.path))}; it ${must}`;
}

/** The field, its value in `root` and what it must be, of an issue whose schema says `must ...`. `whole` names the outermost value. */
export function issueText(root: unknown, issue: z.core.$ZodIssue, whole: string): string {
  return `${pathText(issue.path) || whole} ${problemText(root, issue)}`;
}

/** The value that a schema makes of `json`. Throws config-invalid naming the first wrong field, its value and the allowed range. */
export function parseChecked<T extends z.ZodType>(
  schema: T,
  json: unknown,
  subject: Subject,
): z.output<T> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  if (issue === undefined) refuseField(subject, subject.whole, `is not a ${subject.what}`);
  refuseIssue(subject, json, issue);
}

/** Throws config-invalid when two entries of `list` have one id. `at` writes an entry's place: `devices[2].id`. */
export function refuseDuplicates(
  ids: readonly string[],
  at: (index: number) => string,
  subject: Subject,
): void {
  const seen = new Map<string, number>();
  for (const [index, id] of ids.entries()) {
    const earlier = seen.get(id);
    if (earlier !== undefined) {
      refuseField(
        subject,
        at(index),
        `is '${id}' like ${at(earlier)}; every device needs its own id`,
      );
    }
    seen.set(id, index);
  }
}
