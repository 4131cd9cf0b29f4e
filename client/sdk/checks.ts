/**
 * What a caller gives, held against what it may be before anything is sent: the wire would wrap, cut or drop numbers that do not fit it.
 * Each throws request-invalid with the field, the value and what is allowed; `check...` lets pass what is not given.
 */
import { inspect } from 'node:util';
import { HelsError } from '../../proto/domain/errors.ts';

export const uint32Range = [0, 2 ** 32 - 1] as const;

export function refuse(field: string, value: unknown, allowed: string): never {
  const message = `${field}: ${shown(value)} is not ${allowed}`;
  throw new HelsError('request-invalid', message, { field });
}

/** Short, on one line. */
function shown(value: unknown): string {
  const text = inspect(value, { depth: 1, breakLength: Infinity, maxArrayLength: 10 });
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Both ends included. */
type Range = readonly [low: number, high: number];

function rangeText([low, high]: Range): string {
  return high === Infinity ? `from ${low} on` : `from ${low} to ${high}`;
}

function isWithin(value: unknown, [low, high]: Range): boolean {
  return typeof value === 'number' && value >= low && value <= high;
}

const otherwise = '; leave it out for the default';

export function requireWhole(field: string, value: unknown, range: Range, fix = ''): void {
  if (Number.isInteger(value) && isWithin(value, range)) return;
  refuse(field, value, `a whole number ${rangeText(range)}${fix}`);
}

export function checkWhole(field: string, value: unknown, range: Range): void {
  if (value !== undefined) requireWhole(field, value, range, otherwise);
}

export function requireNumber(field: string, value: unknown, range: Range, fix = ''): void {
  if (isWithin(value, range)) return;
  refuse(field, value, `a number ${rangeText(range)}${fix}`);
}

export function checkNumber(field: string, value: unknown, range: Range): void {
  if (value !== undefined) requireNumber(field, value, range, otherwise);
}

export function checkText(field: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'string') refuse(field, value, 'a text');
}

export function checkFlag(field: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'boolean') refuse(field, value, 'true or false');
}

/** `what`: the entries, for people. */
export function checkList(
  field: string,
  value: unknown,
  what: string,
  checkEntry: (field: string, entry: unknown) => void,
): void {
  if (value === undefined) return;
  if (!Array.isArray(value)) refuse(field, value, `a list of ${what}`);
  for (const [index, entry] of value.entries()) {
    if (entry === undefined) refuse(`${field}[${index}]`, entry, `one of ${what}`);
    checkEntry(`${field}[${index}]`, entry);
  }
}

/** As the wire has them; which of them the model has, it says. */
export function checkTokenIds(field: string, value: unknown): void {
  if (value === undefined) return;
  if (!Array.isArray(value)) refuse(field, value, 'a list of token ids');
  const ids: readonly unknown[] = value;
  const wrong = ids.findIndex((id) => !Number.isInteger(id) || !isWithin(id, uint32Range));
  if (wrong === -1) return;
  const allowed = `a token id, a whole number ${rangeText(uint32Range)}`;
  refuse(`${field}[${wrong}]`, ids[wrong], allowed);
}
