/** What the machine allows: read bandwidth, and the seconds of a step's matrix products alone, by native/test/ceiling_bench.cpp. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ModelShape } from '../random-model.ts';

export interface Limits {
  threads: number;
  /** Of the buffer that the bandwidth was measured over. */
  readBytes: number;
  readBytesPerSecond: number;
  /** Of the step's matrix products alone. */
  productSeconds: number;
}

const nativeDirectory = fileURLToPath(new URL('../../../native', import.meta.url));

/** Throws where CMake does: the preset needs what `make setup-test` installs. */
export function buildCeilingBench(): void {
  const cmake = (...parameters: string[]) =>
    execFileSync('cmake', parameters, {
      cwd: nativeDirectory,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  cmake('--preset', 'release');
  cmake('--build', '--preset', 'release', '--target', 'ceiling_bench');
}

/** Of a step of `rows` tokens: a decode, or a prefill that asks for the logits of its last token. */
export function measureLimits(
  shape: ModelShape,
  threads: number,
  rows: number,
  prefill: boolean,
): Limits {
  const { layers, hiddenSize, queryHeads, headGroups, ffnColumns, vocabRows } = shape;
  const qkvColumns = hiddenSize + 2 * (hiddenSize / queryHeads) * headGroups;
  const sizes = [threads, layers, hiddenSize, qkvColumns, hiddenSize, ffnColumns, vocabRows];
  const program = join(nativeDirectory, 'build-release/test/ceiling_bench');
  const output = execFileSync(program, [...sizes, prefill ? `${rows}p` : rows].map(String), {
    encoding: 'utf8',
  });
  const { steps, ...read } = JSON.parse(output) as Omit<Limits, 'productSeconds'> & {
    steps: [{ seconds: number }];
  };
  return { ...read, productSeconds: steps[0].seconds };
}
