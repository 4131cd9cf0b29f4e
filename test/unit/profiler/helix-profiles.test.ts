import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fitPhase } from '../../../controller/profiler/fit-phase.ts';
import { predictSeconds } from '../../../controller/profiler/latency-terms.ts';

const shared = process.env['HELS_SHARED'] ?? '../shared';
const folder = join(shared, 'data', 'helix-profiles');
const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.csv')) : [];

/** Rows of tokens,milliseconds; the first one, 0,0, is a filler. */
function readProfile(name: string): { tokens: number; seconds: number }[] {
  return readFileSync(join(folder, name), 'utf8')
    .trim()
    .split('\n')
    .map((row) => row.split(',').map(Number))
    .filter(([tokens]) => tokens !== 0)
    .map(([tokens = 0, milliseconds = 0]) => ({ tokens, seconds: milliseconds / 1e3 }));
}

test.skipIf(files.length > 0)('real GPU timings', ({ skip }) => {
  skip(`skipped: no profiles in ${folder}; set HELS_SHARED`);
});

test.each(files)('%s: the fitted lines are within 5 percent in the median', (name) => {
  const rows = readProfile(name);
  // One layer of a 30B model on one GPU; only the tokens vary.
  const points = rows.map(({ tokens }) => ({
    prefill: name.includes('prompt'),
    tokens,
    contextTokens: tokens,
    headGroups: 52,
    ffnColumns: 17920,
    vocabRows: 0,
  }));
  const seconds = rows.map((row) => row.seconds);
  const fit = fitPhase(points, seconds);
  const smallest = Math.abs(predictSeconds(fit.lines, points[0]!) / seconds[0]! - 1) * 100;
  process.stdout.write(
    `${name}: ${fit.lines.length} lines, held-out median ${fit.heldOut.medianAbsolutePercent.toFixed(2)} %, ` +
      `95th percentile ${fit.heldOut.percentile95AbsolutePercent.toFixed(2)} %, smallest batch ${smallest.toFixed(2)} %\n`,
  );
  expect(fit.fitted.medianAbsolutePercent).toBeLessThanOrEqual(5);
  expect(fit.heldOut.medianAbsolutePercent).toBeLessThanOrEqual(5);
});
