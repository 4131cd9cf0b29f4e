/** The file of the embedded store: one checksummed line for each transaction, read and written piece by piece, whatever its length. */
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { HelsError } from '../../proto/domain/errors.ts';
import { KeyValueState } from './key-value-state.ts';

/** One transaction. A leased key is kept as deleted: its holder was the process that is gone. */
interface LogRecord {
  revision: number;
  changes: { key: string; value: string | null }[];
}

export function encode(record: LogRecord): string {
  const text = JSON.stringify(record);
  return `${checksum(text)} ${text}\n`;
}

function checksum(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

function decode(line: string): LogRecord | null {
  const text = line.slice(17);
  return line.slice(0, 16) === checksum(text) ? (JSON.parse(text) as LogRecord) : null;
}

const newline = 0x0a;
const pieceBytes = 2 ** 20;

/** The lines with their newline; the last one may be without. */
function* linesOf(file: string): Generator<Buffer, void, undefined> {
  const descriptor = openSync(file, 'r');
  const piece = Buffer.alloc(pieceBytes);
  let begun: Buffer[] = [];
  try {
    for (;;) {
      const size = readSync(descriptor, piece);
      if (size === 0) break;
      let start = 0;
      for (let end = piece.indexOf(newline); end >= 0 && end < size; ) {
        yield Buffer.concat([...begun, piece.subarray(start, end + 1)]);
        begun = [];
        start = end + 1;
        end = piece.indexOf(newline, start);
      }
      if (start < size) begun.push(Buffer.from(piece.subarray(start, size)));
    }
  } finally {
    closeSync(descriptor);
  }
  if (begun.length > 0) yield Buffer.concat(begun);
}

interface Replay {
  state: KeyValueState;
  /** Bytes of whole records; what follows is a record that was being written when the process died. */
  goodBytes: number;
}

/** Throws config-invalid when a record before the last is damaged. */
export function replay(file: string): Replay {
  let state = new KeyValueState();
  let goodBytes = 0;
  if (!existsSync(file)) return { state, goodBytes };
  let records = 0;
  const lines = linesOf(file);
  for (const line of lines) {
    const record = isWhole(line) ? decode(line.toString('utf8', 0, line.length - 1)) : null;
    if (record === null) {
      refuseMore(file, records + 1, lines);
      break;
    }
    if (records === 0) state = new KeyValueState(record.revision - 1);
    applyRecord(state, record);
    records += 1;
    goodBytes += line.length;
  }
  return { state, goodBytes };
}

function isWhole(line: Buffer): boolean {
  return line.at(-1) === newline;
}

/** A record that is not good is one that was being written, unless something follows it. */
function refuseMore(file: string, record: number, following: Iterable<Buffer>): void {
  let more = false;
  let records = record;
  for (const line of following) {
    more = true;
    if (isWhole(line)) records += 1;
  }
  if (!more) return;
  throw new HelsError(
    'config-invalid',
    `${file}: record ${record} of ${records} does not match its checksum; restore the file from a backup, or move it away to start empty`,
    { field: '--data-dir' },
  );
}

function applyRecord(state: KeyValueState, { revision, changes }: LogRecord): void {
  // Folding leaves gaps in the revisions; they only have to grow.
  while (state.revision < revision - 1) state.apply([]);
  state.apply(
    changes.map(({ key, value }) =>
      value === null ? { key, value } : { key, value, leaseId: null },
    ),
  );
}

/** The state as the shortest log, as it would be after this process: without what is leased. */
function foldedRecords(state: KeyValueState): LogRecord[] {
  const byRevision = new Map<number, LogRecord>();
  for (const { key, value, revision } of state.lasting()) {
    const record = byRevision.get(revision) ?? { revision, changes: [] };
    record.changes.push({ key, value });
    byRevision.set(revision, record);
  }
  // The newest revision may belong to a key that is gone; the count must not go back.
  const { revision } = state;
  if (!byRevision.has(revision)) byRevision.set(revision, { revision, changes: [] });
  return [...byRevision.values()];
}

/** Of the log that `fold` would write. */
export function foldedBytes(state: KeyValueState): number {
  const sizes = foldedRecords(state).map((record) => Buffer.byteLength(encode(record)));
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Open for appending. */
export interface OpenLog {
  descriptor: number;
  /** Of whole records. */
  sizeBytes: number;
}

/** Writes the state beside the log and puts it in the log's place; when it throws, the log is as it was. */
export function fold(file: string, state: KeyValueState): OpenLog {
  const next = `${file}.next`;
  rmSync(next, { force: true });
  const descriptor = openSync(next, 'a');
  try {
    let sizeBytes = 0;
    for (const record of foldedRecords(state)) {
      const line = encode(record);
      writeFileSync(descriptor, line);
      sizeBytes += Buffer.byteLength(line);
    }
    fsyncSync(descriptor);
    renameSync(next, file);
    return { descriptor, sizeBytes };
  } catch (error) {
    closeSync(descriptor);
    rmSync(next, { force: true });
    throw error;
  }
}
