/** The embedded default: a log of checksummed records in one directory, held by one process at a time. */
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { makeDirectory } from '../../proto/base/make-directory.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { DirectoryLock } from './directory-lock.ts';
import { type Change, KeyValueState } from './key-value-state.ts';
import { MemoryStore } from './memory-store.ts';

const logName = 'store.log';

/** Records beyond this are folded into one per key when the store opens. */
const recordsMax = 10_000;

/** One transaction. A leased key is kept as deleted: its holder was the process that is gone. */
interface LogRecord {
  revision: number;
  changes: { key: string; value: string | null }[];
}

function encode(record: LogRecord): string {
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

interface Replay {
  state: KeyValueState;
  records: number;
  /** Bytes of whole records; what follows is a record that was being written when the process died. */
  goodBytes: number;
}

function replay(file: string): Replay {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  const lines = text.split('\n');
  const tail = lines.pop() ?? '';
  const records: LogRecord[] = [];
  let goodBytes = 0;
  for (const [index, line] of lines.entries()) {
    const record = decode(line);
    if (record === null) {
      if (index === lines.length - 1 && tail === '') break;
      throw new HelsError(
        'config-invalid',
        `${file}: record ${index + 1} of ${lines.length} does not match its checksum; restore the file from a backup, or move it away to start empty`,
        { field: '--data-dir' },
      );
    }
    records.push(record);
    goodBytes += Buffer.byteLength(line) + 1;
  }
  return { state: stateOf(records), records: records.length, goodBytes };
}

function stateOf(records: readonly LogRecord[]): KeyValueState {
  const first = records[0];
  const state = new KeyValueState(first === undefined ? 0 : first.revision - 1);
  for (const { revision, changes } of records) {
    // Folding leaves gaps in the revisions; they only have to grow.
    while (state.revision < revision - 1) state.apply([]);
    state.apply(
      changes.map(({ key, value }) =>
        value === null ? { key, value } : { key, value, leaseId: null },
      ),
    );
  }
  return state;
}

export class FileStore extends MemoryStore {
  readonly #descriptor: number;
  readonly #lock: DirectoryLock;
  /** Of whole records. */
  #sizeBytes: number;
  #open = true;

  private constructor(
    state: KeyValueState,
    descriptor: number,
    sizeBytes: number,
    lock: DirectoryLock,
  ) {
    super(state);
    this.#descriptor = descriptor;
    this.#sizeBytes = sizeBytes;
    this.#lock = lock;
  }

  /**
   * Throws config-invalid when the directory cannot be used, is in use, or its log is damaged (a torn last record is no damage: it never
   * happened).
   */
  static open(directory: string): FileStore {
    makeDataDirectory(directory);
    const lock = DirectoryLock.take(directory);
    try {
      const file = join(directory, logName);
      const { state, records, goodBytes } = replay(file);
      const sizeBytes = records > recordsMax ? fold(file, state) : goodBytes;
      const descriptor = openSync(file, 'a');
      ftruncateSync(descriptor, sizeBytes);
      return new FileStore(state, descriptor, sizeBytes, lock);
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  override async close(): Promise<void> {
    await super.close();
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#descriptor);
    this.#lock.release();
  }

  /** On the disk before it is visible. */
  protected override record(revision: number, changes: readonly Change[]): void {
    const kept = changes.map((change) => {
      const leased = change.value !== null && change.leaseId !== null;
      // The holder ends with this process, and the key with it.
      return { key: change.key, value: leased ? null : change.value };
    });
    const line = encode({ revision, changes: kept });
    try {
      writeFileSync(this.#descriptor, line);
      fsyncSync(this.#descriptor);
    } catch (error) {
      // A part of a record before the next one would read as damage.
      ftruncateSync(this.#descriptor, this.#sizeBytes);
      throw new HelsError('internal', `the store cannot be written: ${String(error)}`, {
        cause: error,
      });
    }
    this.#sizeBytes += Buffer.byteLength(line);
  }
}

function makeDataDirectory(directory: string): void {
  try {
    makeDirectory(directory);
  } catch (error) {
    throw new HelsError(
      'config-invalid',
      `${directory} cannot be made: ${String(error)}; choose another --data-dir`,
      { field: '--data-dir' },
    );
  }
}

/** Writes the state as one record per key beside the log and puts it in the log's place. Returns its size in bytes. */
function fold(file: string, state: KeyValueState): number {
  const next = `${file}.next`;
  const descriptor = openSync(next, 'w');
  const entries = state.list('').sort((a, b) => a.revision - b.revision);
  const byRevision = new Map<number, LogRecord>();
  for (const { key, value, revision } of entries) {
    const record = byRevision.get(revision) ?? { revision, changes: [] };
    record.changes.push({ key, value });
    byRevision.set(revision, record);
  }
  // The newest revision may belong to a key that is gone; the count must not go back.
  if (!byRevision.has(state.revision)) {
    byRevision.set(state.revision, { revision: state.revision, changes: [] });
  }
  let sizeBytes = 0;
  for (const record of byRevision.values()) sizeBytes += writeSync(descriptor, encode(record));
  fsyncSync(descriptor);
  closeSync(descriptor);
  renameSync(next, file);
  return sizeBytes;
}
