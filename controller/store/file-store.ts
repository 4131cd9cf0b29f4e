/** The embedded default: a log of checksummed records in one directory, held by one process at a time. */
import { closeSync, fsyncSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Clock, systemClock } from '../../proto/base/clock.ts';
import { makeDirectory } from '../../proto/base/make-directory.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { DirectoryLock, lockRefreshMs } from './directory-lock.ts';
import type { Change, KeyValueState } from './key-value-state.ts';
import { MemoryStore } from './memory-store.ts';
import { encode, fold, foldedBytes, type OpenLog, replay } from './transaction-log.ts';

const logName = 'store.log';

/** A log of so many times the size of its state is folded into that. */
const growthMax = 4;
/** A shorter one stays as it is. */
const foldBytesMin = 2 ** 18;

const foldAt = (stateBytes: number) => Math.max(foldBytesMin, growthMax * stateBytes);

export class FileStore extends MemoryStore {
  readonly #file: string;
  readonly #lock: DirectoryLock;
  #log: OpenLog;
  #foldAtBytes: number;
  readonly #refresh: NodeJS.Timeout;
  #open = true;

  private constructor(
    file: string,
    state: KeyValueState,
    log: OpenLog,
    lock: DirectoryLock,
    clock: Clock,
  ) {
    super(state);
    this.#file = file;
    this.#log = log;
    this.#lock = lock;
    this.#foldAtBytes = foldAt(foldedBytes(state));
    this.#refresh = setInterval(() => void this.#refreshLock(clock.unixMs()), lockRefreshMs);
    this.#refresh.unref();
  }

  /**
   * Throws config-invalid when the directory cannot be used, is in use, or its log is damaged (a torn last record is no damage: it never
   * happened).
   */
  static open(directory: string, clock: Clock = systemClock): FileStore {
    makeDataDirectory(directory);
    const lock = DirectoryLock.take(directory, clock.unixMs());
    try {
      const file = join(directory, logName);
      const { state, goodBytes: sizeBytes } = replay(file);
      const descriptor = openSync(file, 'a');
      ftruncateSync(descriptor, sizeBytes);
      const store = new FileStore(file, state, { descriptor, sizeBytes }, lock, clock);
      store.#foldIfLong();
      return store;
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  override async close(): Promise<void> {
    await super.close();
    if (!this.#open) return;
    this.#open = false;
    clearInterval(this.#refresh);
    closeSync(this.#log.descriptor);
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
    // Before the log is touched, for it may be another process's.
    this.#lock.check();
    try {
      this.#foldIfLong();
      writeFileSync(this.#log.descriptor, line);
      fsyncSync(this.#log.descriptor);
    } catch (error) {
      // A part of a record before the next one would read as damage.
      ftruncateSync(this.#log.descriptor, this.#log.sizeBytes);
      throw new HelsError('internal', `the store cannot be written: ${String(error)}`, {
        cause: error,
      });
    }
    this.#log.sizeBytes += Buffer.byteLength(line);
  }

  async #refreshLock(nowUnixMs: number): Promise<void> {
    try {
      await this.#lock.refresh(nowUnixMs);
    } catch (error) {
      // A disk that is full or slow takes nothing over.
      const why = toHelsError(error);
      if (this.#open && why.code === 'stale-fence') this.endLeases(why);
    }
  }

  #foldIfLong(): void {
    if (this.#log.sizeBytes <= this.#foldAtBytes) return;
    let folded: OpenLog;
    try {
      folded = fold(this.#file, this.state);
    } catch {
      // The long log is as good as a short one: no reason to refuse what there may be room for.
      this.#foldAtBytes = 2 * this.#log.sizeBytes;
      return;
    }
    closeSync(this.#log.descriptor);
    this.#log = folded;
    this.#foldAtBytes = foldAt(folded.sizeBytes);
    // What follows is written to the new file: a crash must not bring back the old one.
    syncDirectory(dirname(this.#file));
  }
}

function syncDirectory(directory: string): void {
  const descriptor = openSync(directory, 'r');
  try {
    fsyncSync(descriptor);
  } catch (error) {
    // Some file systems, of networks and in user space, cannot.
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['EINVAL', 'ENOTSUP'].includes(code)) throw error;
  } finally {
    closeSync(descriptor);
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
