/** A day's real arrivals: the first 2000 requests of the Azure conversation trace of 2023 over a small mixed cluster. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { plan } from '../../controller/planner/plan.ts';
import { clusterPlanInput, parseCluster } from '../../controller/profiler/cluster-input.ts';
import { simulate } from '../../controller/simulator/simulate.ts';
import { parseTrace } from '../../controller/simulator/trace/parse-trace.ts';
import { readDeviceProfiles, readModelShape } from '../../controller/tools/cluster-file.ts';

const shared = process.env['HELS_SHARED'] ?? '../shared';
const path = join(shared, 'data', 'traces', 'azure-llm-2023-conv.csv');
const missing = !existsSync(path);

test.runIf(missing)('the Azure trace', ({ skip }) => {
  skip(`skipped: no trace at ${path}; set HELS_SHARED`);
});

describe.skipIf(missing)('the Azure trace', () => {
  const load = () => parseTrace(readFileSync(path, 'utf8'), 2000);

  test('is read with its fractions of seconds', () => {
    const trace = load();
    expect(trace.slice(0, 2)).toEqual([
      { atSeconds: 0, promptTokens: 374, outputTokens: 44 },
      { atSeconds: expect.closeTo(4.314579, 6), promptTokens: 396, outputTokens: 109 },
    ]);
    expect(trace).toHaveLength(2000);
  });

  test('every request that fits is answered, and twice the same', async () => {
    const cluster = parseCluster({
      numerics: 'fast',
      link: 'pcie',
      devices: [
        { profile: 'a100-40', count: 2 },
        { profile: 'rtx-3090', count: 2 },
      ],
    });
    const model = await readModelShape('deploy/examples/models/llama-2-13b');
    const workload = { sequences: 64, contextTokens: 1300, prefillChunk: 512, outputTokens: 0 };
    const input = clusterPlanInput(cluster, model, workload, await readDeviceProfiles());
    const options = {
      input,
      plan: plan(input, () => 0),
      trace: load(),
      limits: {
        kvBlockTokens: 16,
        stepTokensMax: 512,
        sequencesMax: 64,
        contextTokensMax: model.maxPositions,
        waitingMax: 2000,
      },
      serviceLevel: { ttftSeconds: 1, tpotSeconds: 0.1 },
      seed: 1,
    };
    const { report } = simulate(options);
    const fits = options.trace.filter(
      (one) => one.promptTokens + one.outputTokens <= model.maxPositions,
    );
    expect(report.requests).toEqual({
      arrived: 2000,
      completed: fits.length,
      refusedTooLong: 2000 - fits.length,
      refusedOverloaded: 0,
      refusedNotReady: 0,
      failed: 0,
    });
    expect(report.outputTokens).toBe(fits.reduce((sum, one) => sum + one.outputTokens, 0));
    expect(report.ttftSeconds.p50).toBeGreaterThan(0);
    expect(simulate(options).report).toEqual(report);
  });
});
