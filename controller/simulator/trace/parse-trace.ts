import { HelsError } from '../../../proto/domain/errors.ts';
import { type Arrival, arrivalsMax, lengthTokensMax } from './arrival.ts';

/** Time, prompt and output columns by header: the Azure LLM inference traces', or plain seconds. */
const headers: readonly (readonly [string, string, string])[] = [
  ['TIMESTAMP', 'ContextTokens', 'GeneratedTokens'],
  ['atSeconds', 'promptTokens', 'outputTokens'],
];

const timestamp = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?Z?$/;

function fail(line: number, message: string): never {
  throw new HelsError('config-invalid', `trace: line ${line}: ${message}`, { field: '--trace' });
}

/** Seconds since some fixed moment; NaN when it is no time. */
function secondsOf(text: string): number {
  const parts = timestamp.exec(text);
  if (parts === null) return text === '' ? Number.NaN : Number(text);
  const [, date, time, fraction = ''] = parts;
  return Date.parse(`${date}T${time}Z`) / 1000 + Number(`0${fraction}`);
}

function tokensOf(text: string, column: string, line: number): number {
  const tokens = text === '' ? Number.NaN : Number(text);
  if (Number.isInteger(tokens) && tokens >= 1 && tokens <= lengthTokensMax) return tokens;
  return fail(
    line,
    `${column} is '${text.slice(0, 40)}'; it must be a whole number from 1 to ${lengthTokensMax}`,
  );
}

/**
 * A trace from CSV text: a header, then one request a line in the order of arrival. Times are given relative to the first one. Reads
 * at most `countMax` requests. Throws config-invalid naming the first wrong line.
 */
export function parseTrace(text: string, countMax = arrivalsMax): Arrival[] {
  const [header = '', ...rows] = text.replace(/^\uFEFF/, '').split(/\r?\n/);
  const columns = headers.find((names) => names.join() === header.trim());
  if (columns === undefined) {
    const known = headers.map((names) => names.join()).join(' or ');
    fail(1, `the header is '${header.slice(0, 60)}'; it must be ${known}`);
  }
  const arrivals: Arrival[] = [];
  let first = 0;
  let previous = Number.NEGATIVE_INFINITY;
  for (const [index, row] of rows.entries()) {
    if (row.trim() === '') continue;
    if (arrivals.length >= Math.min(countMax, arrivalsMax)) break;
    const line = index + 2;
    const cells = row.split(',').map((cell) => cell.trim());
    const [time = '', prompt = '', output = ''] = cells;
    if (cells.length !== 3) fail(line, `has ${cells.length} values; ${columns.join()} are 3`);
    const seconds = secondsOf(time);
    if (!Number.isFinite(seconds)) {
      const must = 'it must be a time such as 2023-11-16 18:15:46.68, or seconds';
      fail(line, `${columns[0]} is '${time.slice(0, 40)}'; ${must}`);
    }
    if (seconds < previous) {
      fail(line, `${columns[0]} is before the line above; sort the trace by arrival`);
    }
    if (arrivals.length === 0) first = seconds;
    previous = seconds;
    arrivals.push({
      atSeconds: seconds - first,
      promptTokens: tokensOf(prompt, columns[1], line),
      outputTokens: tokensOf(output, columns[2], line),
    });
  }
  if (arrivals.length === 0) fail(2, 'is missing; the trace has no requests');
  return arrivals;
}
