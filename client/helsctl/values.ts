import { HelsError } from '../../proto/domain/errors.ts';

/** A whole number of a command line; throws usage naming the option, the value and the range. */
export function parseWholeNumber(text: string, option: string, low: number, high: number): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value) || value < low || value > high) {
    throw new HelsError(
      'usage',
      `${option}: '${text}' is not a whole number from ${low} to ${high}`,
    );
  }
  return value;
}

/** A number of a command line; throws usage naming the option, the value and the range. */
export function parseNumber(text: string, option: string, low: number, high: number): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= low && value <= high)) {
    throw new HelsError('usage', `${option}: '${text}' is not a number from ${low} to ${high}`);
  }
  return value;
}

/** Of requests: --priority of the commands that make some. */
export function parsePriority(text: string): number {
  return parseWholeNumber(text, '--priority', -1000, 1000);
}
