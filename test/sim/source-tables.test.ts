import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { plan } from '../../controller/planner/plan.ts';
import { clusterPlanInput } from '../../controller/profiler/cluster-input.ts';
import {
  readCluster,
  readDeviceProfiles,
  readModelShape,
} from '../../controller/tools/cluster-file.ts';
import {
  type Assumptions,
  baselineError,
  batches,
  predicted,
  type SourcePolicy,
  source,
} from './source-llama.ts';

const profiles = await readDeviceProfiles();
const model = await readModelShape('deploy/examples/models/llama-2-13b');
const cluster = await readCluster('deploy/examples/llama-2-13b-2xa100-2xp100.yaml');
const page = readFileSync('docs/source-tables-llama.md', 'utf8');

/** Calibrated on the baselines' columns, with link.latencySeconds of the cluster file. */
const assumptions: Assumptions = { cluster, contextTokens: 334 };

const names: Readonly<Record<SourcePolicy, string>> = {
  equal: 'vLLM (`equal`)',
  compute: 'HexGen (`compute`)',
  stepwise: 'Hels (`stepwise`, its own loop)',
  hels: 'Hels (`hels`, ours)',
};
const cell = (seconds: number | null | undefined): string =>
  typeof seconds === 'number' ? `${(seconds * 1e3).toFixed(1)} ms` : 'out of memory';

function rowsOf(policy: SourcePolicy): string[] {
  const ours = predicted(policy, assumptions, model, profiles);
  return batches.map((batch, index) => {
    const theirs = source[policy][index];
    const mine = ours[index];
    const difference =
      typeof theirs === 'number' && typeof mine === 'number'
        ? `${(100 * (mine / theirs - 1)).toFixed(1)} %`
        : '';
    return `| ${names[policy]} | ${batch} | ${cell(theirs)} | ${cell(mine)} | ${difference} |`;
  });
}

test('the page shows what the planner predicts today', () => {
  const table = [
    '| system | batch | source | ours | difference |',
    '|---|---|---|---|---|',
    ...(['equal', 'compute', 'stepwise', 'hels'] as const).flatMap(rowsOf),
  ].join('\n');
  process.stdout.write(`${table}\n`);
  expect(page).toContain(table);
  const error = baselineError(assumptions, model, profiles);
  expect(page).toContain(`mean error on the baselines' eight cells is ${error.toFixed(1)} %`);
});

test('the page shows the devices that each plan of hels uses', () => {
  const lines = batches.map((sequences) => {
    const workload = {
      sequences,
      contextTokens: assumptions.contextTokens,
      prefillChunk: 512,
      outputTokens: 0,
    };
    const { ranks } = plan(clusterPlanInput(cluster, model, workload, profiles), () => 0);
    const shares = ranks.map(({ device, headGroups, ffnColumns }) => {
      const heads = headGroups[1] - headGroups[0];
      return `${device} ${heads} heads, ${ffnColumns[1] - ffnColumns[0]} columns`;
    });
    return `- batch ${sequences}: ${shares.join('; ')}`;
  });
  process.stdout.write(`${lines.join('\n')}\n`);
  expect(page).toContain(lines.join('\n'));
});

test('equal runs out of memory from batch 128, as in the source, and no one else does', () => {
  const fits = (policy: SourcePolicy) =>
    predicted(policy, assumptions, model, profiles).map((seconds) => seconds !== null);
  expect(fits('equal')).toEqual([true, true, false, false]);
  expect(fits('compute')).toEqual([true, true, true, true]);
  expect(fits('hels')).toEqual([true, true, true, true]);
});

test('hels is predicted at least as fast as each baseline at every batch', () => {
  const ours = predicted('hels', assumptions, model, profiles);
  for (const policy of ['equal', 'compute'] as const) {
    for (const [index, seconds] of predicted(policy, assumptions, model, profiles).entries()) {
      expect(ours[index]).toBeLessThanOrEqual(seconds ?? Number.POSITIVE_INFINITY);
    }
  }
});

test('the calibrated numbers are those of the baselines: no neighbour fits their columns better', () => {
  const error = baselineError(assumptions, model, profiles);
  const latencySeconds = cluster.link.latencySeconds ?? 0;
  for (const factor of [0.9, 1.1]) {
    const context = { ...assumptions, contextTokens: Math.round(334 * factor) };
    expect(baselineError(context, model, profiles)).toBeGreaterThan(error);
    const link = { ...cluster.link, latencySeconds: latencySeconds * factor };
    const other = { ...assumptions, cluster: { ...cluster, link } };
    expect(baselineError(other, model, profiles)).toBeGreaterThan(error);
  }
});
