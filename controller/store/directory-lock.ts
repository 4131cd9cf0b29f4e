/** One process at a time in a directory. The lock names its holder; a lock left by a dead one is taken over. */
import {
  linkSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { readFile, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { HelsError } from '../../proto/domain/errors.ts';

const lockName = 'store.lock';
/** Attempts to take over a dead holder's lock while others try the same. */
const attemptsMax = 10;
/** A holder touches its lock so often, for those who cannot see its process. */
export const lockRefreshMs = 2_000;
/** For them a holder whose lock is older is dead. One that only stood still finds its lock gone. */
const silentMs = 10_000;

interface Holder {
  pid: number;
  /** Clock ticks since boot; null where the system does not tell. A process id alone may have been given out again. */
  startTicks: string | null;
  /** Where its process id means something: boot and process namespace (each container has its own); null where the system does not tell. */
  space: string | null;
}

export class DirectoryLock {
  readonly #directory: string;
  readonly #file: string;
  readonly #text: string;

  private constructor(directory: string, text: string) {
    this.#directory = directory;
    this.#file = join(directory, lockName);
    this.#text = text;
  }

  /** Throws config-invalid when a live process holds the directory or the lock cannot be written. */
  static take(directory: string, nowUnixMs: number): DirectoryLock {
    const text = JSON.stringify(holderOf(process.pid));
    const file = join(directory, lockName);
    let folder: string | null = null;
    try {
      // The process id would not tell us from a process of another container.
      folder = mkdtempSync(`${file}.`);
      const own = join(folder, 'own');
      writeFileSync(own, text);
      for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
        if (linkIfFree(own, file)) return new DirectoryLock(directory, text);
        const holder = readHolder(file);
        if (holder !== null && isHeld(holder, file, nowUnixMs)) throw inUse(directory, holder);
        removeDead(file, join(folder, 'old'), nowUnixMs);
      }
      throw new Error('others keep taking it');
    } catch (error) {
      if (error instanceof HelsError) throw error;
      throw new HelsError('config-invalid', `${file} cannot be written: ${String(error)}`, {
        field: '--data-dir',
      });
    } finally {
      if (folder !== null) rmSync(folder, { recursive: true, force: true });
    }
  }

  /** Throws stale-fence when the lock is another's, or gone: another may have come and left while this one stood still. */
  check(): void {
    this.#requireOwn(readText(this.#file));
  }

  /** To be called every `lockRefreshMs`. Throws as check(). */
  async refresh(nowUnixMs: number): Promise<void> {
    const text = await readFile(this.#file, 'utf8').catch(nullWithoutFile);
    this.#requireOwn(text);
    await utimes(this.#file, nowUnixMs / 1_000, nowUnixMs / 1_000);
  }

  release(): void {
    if (readText(this.#file) === this.#text) rmSync(this.#file, { force: true });
  }

  #requireOwn(text: string | null): void {
    if (text === this.#text) return;
    const message =
      text === null
        ? `${this.#file} is gone: another process may have written here since; never remove it while a controller runs`
        : `another process took ${this.#directory} over while this one stood still`;
    throw new HelsError('stale-fence', message);
  }
}

function inUse(directory: string, { pid, space }: Holder): HelsError {
  const elsewhere = ` of another container or host (if it is gone, try again in ${silentMs / 1_000} s)`;
  return new HelsError(
    'config-invalid',
    `${directory} is in use by process ${pid}${isHere(space) ? '' : elsewhere}; stop it, or choose another --data-dir`,
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
function removeDead(file: string, moved: string, nowUnixMs: number): void {
  try {
    renameSync(file, moved);
  } catch (error) {
    nullWithoutFile(error);
    return;
  }
  const holder = readHolder(moved);
  if (holder !== null && isHeld(holder, moved, nowUnixMs)) linkIfFree(moved, file);
  rmSync(moved);
}

function nullWithoutFile(error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
  throw error;
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    return nullWithoutFile(error);
  }
}

/** null: the lock is gone or was not written by us. */
function readHolder(file: string): Holder | null {
  try {
    const value = JSON.parse(readFileSync(file, 'utf8')) as Partial<Holder> | null;
    if (typeof value?.pid !== 'number') return null;
    return { startTicks: null, space: null, ...value, pid: value.pid };
  } catch {
    return null;
  }
}

function holderOf(pid: number): Holder {
  const space = ownSpace();
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces; field 22 counts from the process id.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { pid, startTicks: fields[19] ?? null, space };
  } catch {
    return { pid, startTicks: null, space };
  }
}

function ownSpace(): string | null {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return null;
  }
}

/** Whether we would see the process. */
function isHere(space: string | null): boolean {
  const own = ownSpace();
  return space === null || own === null || space === own;
}

/** `file`: where its lock is. */
function isHeld(holder: Holder, file: string, nowUnixMs: number): boolean {
  if (isHere(holder.space)) return isAlive(holder);
  const touchedMs = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  // A clock that was set back makes no lock last.
  return Math.abs(nowUnixMs - touchedMs) < silentMs;
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
