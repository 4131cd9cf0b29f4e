/** What every result is read against: the machine, the commit, and the memory bandwidth of one core, measured in the same run. */
import { execFileSync } from 'node:child_process';
import { cpus, totalmem } from 'node:os';
import { formatBytes } from '../../proto/domain/device.ts';

export interface Machine {
  processor: string;
  cores: number;
  memory: string;
  node: string;
  /** With `+changes` when the working tree differs from it. */
  commit: string;
  date: string;
}

function git(...parameters: string[]): string {
  try {
    return execFileSync('git', parameters, { encoding: 'utf8' }).trim();
  } catch {
    return '';
  }
}

export function describeMachine(): Machine {
  const commit = git('rev-parse', '--short', 'HEAD') || 'unknown';
  const changed = git(
    'status',
    '--porcelain',
    '--untracked-files=no',
    '--',
    ':!test/bench/results',
  );
  const all = cpus();
  return {
    processor: `${all[0]?.model.trim() ?? 'unknown processor'} ${instructionSets()}`.trim(),
    cores: all.length,
    memory: formatBytes(totalmem()),
    node: process.version,
    commit: changed === '' ? commit : `${commit}+changes`,
    date: new Date().toISOString(),
  };
}

/** Those that decide which kernels run; a processor's name in a virtual machine says little. */
function instructionSets(): string {
  const flags = new Set(execFileSync('lscpu', { encoding: 'utf8' }).split(/\s+/));
  return ['avx2', 'avx512f', 'avx512_bf16', 'amx_bf16'].filter((name) => flags.has(name)).join(' ');
}

/** More than four times any last-level cache this is likely to meet. */
const bandwidthBufferBytes = 256 * 2 ** 20;
const bandwidthRuns = 5;

/** Bytes per second that one core reads from memory: the C library's search for a byte that is not there. */
export function measureReadBandwidth(): number {
  const buffer = Buffer.alloc(bandwidthBufferBytes, 1);
  const rates = Array.from({ length: bandwidthRuns }, () => {
    const startMs = performance.now();
    if (buffer.includes(0)) throw new Error('the buffer has been changed');
    return bandwidthBufferBytes / ((performance.now() - startMs) / 1000);
  });
  // A limit: the best run is the one least disturbed.
  return Math.max(...rates);
}
