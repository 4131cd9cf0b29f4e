/** One process at a time in a data directory. */
import { closeSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { HelsError } from '../../proto/domain/errors.ts';

const lockName = 'store.lock';

/** Returns the file to remove when done. Throws config-invalid while another live process holds the directory. */
export function lockDirectory(directory: string): string {
  const file = join(directory, lockName);
  for (let attempt = 0; ; attempt += 1) {
    try {
      const descriptor = openSync(file, 'wx');
      writeSync(descriptor, [process.pid, ...lifeOf(process.pid)].join(' '));
      closeSync(descriptor);
      return file;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt > 0) {
        throw new HelsError('config-invalid', `${file} cannot be written: ${String(error)}`, {
          field: '--data-dir',
        });
      }
    }
    const [holder = '', ...life] = readFileSync(file, 'utf8').split(' ');
    if (isAlive(Number(holder), life)) {
      throw new HelsError(
        'config-invalid',
        `${directory} is in use by process ${holder}; stop it, or choose another --data-dir`,
        { field: '--data-dir' },
      );
    }
    unlinkSync(file);
  }
}

/** Boot and start time: together with the number they name a process for good, also after a power cut. Empty where unknown. */
function lifeOf(pid: number): string[] {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // The second field, a name in parentheses, may hold anything; the start time is the 22nd.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return [boot, fields[19] ?? ''];
  } catch {
    return [];
  }
}

function isAlive(pid: number, life: readonly string[]): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const now = lifeOf(pid);
  return life.length === 0 || now.length === 0 || now.join(' ') === life.join(' ');
}
