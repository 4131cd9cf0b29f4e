/** llama.cpp through node-llama-cpp, installed by the first run that needs it: docs/decisions/0007 says why not with Hels. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const lockDirectory = fileURLToPath(new URL('../peer', import.meta.url));
const installDeadlineMs = 300_000;

export const peerVersion = (
  JSON.parse(readFileSync(join(lockDirectory, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  }
).dependencies['node-llama-cpp'];

/** The directory whose node_modules has it, kept from run to run. No script of any package runs. Throws what npm said. */
export function installPeer(): string {
  const directory = join(tmpdir(), 'hels-bench', `node-llama-cpp-${peerVersion}`);
  if (existsSync(directory)) return directory;
  const unfinished = `${directory}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  try {
    for (const file of ['package.json', 'package-lock.json']) {
      copyFileSync(join(lockDirectory, file), join(unfinished, file));
    }
    // Optional packages are the binaries for GPUs and other systems, hundreds of megabytes.
    execFileSync('npm', ['ci', '--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: unfinished,
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: installDeadlineMs,
    });
    renameSync(unfinished, directory);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return directory;
}
