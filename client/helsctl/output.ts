import { exitCodeOf, type HelsError } from '../../proto/domain/errors.ts';

/** Where a command writes: results to stdout, everything else to stderr, so that output can be piped. */
export interface Output {
  readonly json: boolean;
  /** The command's result: the JSON value with --json, else the text. */
  result(value: unknown, text: () => string): void;
  /** A line for people on stderr; silent with --json. */
  note(line: string): void;
  /** A line for people on stderr that the next one overwrites on a terminal; elsewhere only milestones are written. */
  progress(line: string, milestone?: boolean): void;
  write(text: string): void;
}

export function createOutput(
  json: boolean,
  stdout: NodeJS.WriteStream,
  stderr: NodeJS.WriteStream,
): Output {
  let transient = false;
  const clear = () => {
    if (transient) stderr.write('\r\x1b[2K');
    transient = false;
  };
  return {
    json,
    result(value, text) {
      clear();
      stdout.write(`${json ? JSON.stringify(value) : text()}\n`);
    },
    note(line) {
      clear();
      if (!json) stderr.write(`${line}\n`);
    },
    progress(line, milestone = true) {
      if (json) return;
      if (!stderr.isTTY) {
        if (milestone) stderr.write(`${line}\n`);
        return;
      }
      clear();
      stderr.write(line);
      transient = true;
    },
    write(text) {
      clear();
      stdout.write(text);
    },
  };
}

/** Prints the error in the chosen form and gives the exit code of the contract. */
export function reportError(error: HelsError, json: boolean, stderr: NodeJS.WriteStream): number {
  const { code, message, field } = error;
  stderr.write(
    json ? `${JSON.stringify({ error: { code, message, field } })}\n` : `error: ${message}\n`,
  );
  return exitCodeOf[code];
}

/** Columns aligned by their widest cell; numbers to the right. */
export function formatTable(header: string[], rows: string[][]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) =>
    Math.max(...all.map((row) => (row[column] ?? '').length)),
  );
  const isNumber = (text: string) => /^[-+]?[\d.,]/.test(text);
  return all
    .map((row) =>
      row
        .map((cell, column) => {
          const width = widths[column] ?? 0;
          const sample = rows[0]?.[column] ?? '';
          return isNumber(sample) ? cell.padStart(width) : cell.padEnd(width);
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function formatMilliseconds(seconds: number): string {
  return seconds > 0 ? `${(seconds * 1000).toFixed(2)} ms` : '-';
}
