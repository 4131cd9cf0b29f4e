/** One process at a time in a directory. The lock names its holder; a lock left by a dead one is taken over. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HelsError } from '../../proto/domain/errors.ts';

const lockName = 'store.lock';
/** Attempts to take over a dead holder's lock while others try the same. */
const attemptsMax = 10;

interface Holder {
  pid: number;
  /** Clock ticks since boot; null where the system does not tell. A process id alone may have been given out again. */
  startTicks: string | null;
}

export class DirectoryLock {
  readonly #file: string;

  private constructor(file: string) {
    this.#file = file;
  }

  /** Throws config-invalid when a live process holds the directory or the lock cannot be written. */
  static take(directory: string): DirectoryLock {
    const file = join(directory, lockName);
    const own = `${file}.${process.pid}`;
    try {
      writeFileSync(own, JSON.stringify(holderOf(process.pid)));
      for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
        if (linkIfFree(own, file)) return new DirectoryLock(file);
        const holder = readHolder(file);
        if (holder !== null && isAlive(holder)) throw inUse(directory, holder.pid);
        removeDead(file, own);
      }
      throw new Error('others keep taking it');
    } catch (error) {
      if (error instanceof HelsError) throw error;
      throw new HelsError('config-invalid', `${file} cannot be written: ${String(error)}`, {
        field: '--data-dir',
      });
    } finally {
      rmSync(own, { force: true });
    }
  }

  release(): void {
    rmSync(this.#file, { force: true });
  }
}

function inUse(directory: string, pid: number): HelsError {
  return new HelsError(
    'config-invalid',
    `${directory} is in use by process ${pid}; stop it, or choose another --data-dir`,
    { field: '--data-dir' },
  );
}

/** A link appears with its whole content, so that nobody reads half a lock. */
function linkIfFree(own: string, file: string): boolean {
  try {
    linkSync(own, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Moved away first and looked at again: another process may have replaced the dead lock with its own meanwhile. */
function removeDead(file: string, own: string): void {
  const moved = `${own}.old`;
  try {
    renameSync(file, moved);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  const holder = readHolder(moved);
  if (holder !== null && isAlive(holder)) linkIfFree(moved, file);
  rmSync(moved);
}

/** null: the lock is gone or was not written by us. */
function readHolder(file: string): Holder | null {
  try {
    const value = JSON.parse(readFileSync(file, 'utf8')) as Partial<Holder> | null;
    return typeof value?.pid === 'number' ? { startTicks: null, ...value, pid: value.pid } : null;
  } catch {
    return null;
  }
}

function holderOf(pid: number): Holder {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces; field 22 counts from the process id.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { pid, startTicks: fields[19] ?? null };
  } catch {
    return { pid, startTicks: null };
  }
}

function isAlive({ pid, startTicks }: Holder): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  return startTicks === null || holderOf(pid).startTicks === startTicks;
}
