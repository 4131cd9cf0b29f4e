import { Registry } from 'prom-client';
import { expect, test } from 'vitest';
import type { KvPathStep } from '../../../controller/engine/kv-path-observer.ts';
import { ServingObserver } from '../../../controller/engine/serving-observer.ts';
import type { StepMeasurement } from '../../../controller/engine/step-measurement.ts';
import { ServingMetrics } from '../../../controller/metrics/serving-metrics.ts';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import type { ReturnedKv } from '../../../controller/scheduler/step-plan.ts';
import { limitsOf } from '../../support/scheduler-driver.ts';

const gauges = {
  requestsRunning: 0,
  requestsWaiting: 0,
  kvBlocksUsed: 0,
  kvBlocksTotal: 0,
  kvBlocksCached: 0,
  kvParkedBlocksUsed: 3,
  kvParkedBlocksTotal: 8,
  kvOfRanks: [
    { workerId: 'w', resident: 64, remote: 16, parked: 48, parkedInHost: 32, dropped: 5, held: 80 },
  ],
  recomputeTax: 0.25,
  workersRegistered: ['w'],
  workersAlive: 1,
  epoch: 1,
};

function measurement(
  changes: Partial<StepMeasurement['moves']>,
  returned: Partial<ReturnedKv> = {},
  sequences = 1,
): StepMeasurement {
  const load = {
    decodeTokens: 2,
    decodeContextTokens: 8,
    prefillTokens: 8,
    prefillContextTokens: 40,
  };
  return {
    sequences,
    decodeOnly: false,
    contextTokens: 48,
    load,
    rankComputeSeconds: [1],
    rankCollectiveSeconds: [0],
    totalSeconds: 2,
    plan: {
      step: 1,
      moves: [],
      sequences: [],
      replayedTokens: 0,
      reloadedTokens: 0,
      recalledBlocks: 0,
      recalledTokens: 0,
      ...returned,
    },
    moves: {
      seconds: 0,
      replayedTokens: 0,
      computedTokens: 10,
      rankRemoteSeconds: [0],
      ...changes,
    },
  };
}

test('KV that comes back is told by path, with its share of the seconds', async () => {
  const metrics = new ServingMetrics(new Registry(), () => gauges);
  const loads: number[] = [];
  const tracker = {
    observe: ({ decodeTokens }: { decodeTokens: number }) => loads.push(decodeTokens),
  };
  const scheduler = new Scheduler(limitsOf());
  const steps: number[] = [];
  const kvPaths = { step: ({ moves }: KvPathStep) => steps.push(moves.seconds) };
  const counts = () => scheduler.counts;
  const observer = new ServingObserver(metrics, tracker as never, counts, ['w'], kvPaths);
  observer.step(measurement({}));
  expect([observer.measurements.length, loads.length]).toEqual([1, 0]);
  observer.warming = false;
  observer.step(measurement({ seconds: 0.5, rankRemoteSeconds: [0.125] }, { reloadedTokens: 32 }));
  observer.step(measurement({ replayedTokens: 5 }));
  // Only moves: parks, and nothing comes back.
  observer.step(measurement({ seconds: 0.25, computedTokens: 0 }, {}, 0));
  observer.step(measurement({ seconds: 0.75 }, { recalledBlocks: 2, recalledTokens: 20 }));
  observer.resumed(0.3);
  expect(loads).toEqual([2, 2, 2]);
  expect(steps).toEqual([0, 0.5, 0, 0.25, 0.75]);
  const text = await metrics.text();
  for (const line of [
    'hels_kv_restored_tokens_total{path="reload"} 32',
    'hels_kv_restored_tokens_total{path="replay"} 5',
    'hels_kv_restored_tokens_total{path="recall"} 20',
    'hels_kv_restore_seconds_total{path="reload"} 0.75',
    'hels_kv_restore_seconds_total{path="recall"} 0.75',
    'hels_kv_restore_seconds_total{path="replay"} 1',
    'hels_kv_remote_seconds_total{worker="w"} 0.125',
    'hels_sequence_wait_seconds_count 1',
    'hels_step_seconds_count 3',
    'hels_kv_tokens{worker="w",state="resident"} 64',
    'hels_kv_tokens{worker="w",state="remote"} 16',
    'hels_kv_tokens{worker="w",state="parked"} 48',
    'hels_kv_tokens{worker="w",state="parked_host"} 32',
    'hels_kv_tokens{worker="w",state="dropped"} 5',
    'hels_kv_tokens{worker="w",state="held"} 80',
    'hels_kv_parked_blocks_used 3',
    'hels_kv_parked_blocks_total 8',
    'hels_recompute_tax_ratio 0.25',
  ]) {
    expect(text.split('\n')).toContain(line);
  }
});

test('counts go on where those of another scheduler begin anew', async () => {
  const metrics = new ServingMetrics(new Registry(), () => gauges);
  let counts = { ...new Scheduler(limitsOf()).counts, computedTokens: 10 };
  const kvPaths = { step: () => undefined };
  const observer = new ServingObserver(metrics, {} as never, () => counts, ['w'], kvPaths);
  observer.step(measurement({}));
  counts = { ...counts, computedTokens: 12 };
  observer.countsEnd();
  counts = { ...counts, computedTokens: 3 };
  observer.step(measurement({}));
  expect(await metrics.text()).toContain('hels_tokens_computed_total 15');
});

test('workers that have gone leave no series behind', async () => {
  let workersRegistered = ['w-a', 'w-b'];
  const metrics = new ServingMetrics(new Registry(), () => ({ ...gauges, workersRegistered }));
  for (const worker of workersRegistered) {
    metrics.error(worker, 0.1);
    metrics.residency.remote(worker, 1);
  }
  const seriesOf = async (worker: string) =>
    (await metrics.text()).split('\n').filter((line) => line.includes(`worker="${worker}"`));
  expect(await seriesOf('w-a')).not.toEqual([]);
  workersRegistered = ['w-b'];
  expect(await seriesOf('w-a')).toEqual([]);
  const left = (await seriesOf('w-b')).join('\n');
  expect(left).toContain('hels_step_prediction_error_ratio_count{worker="w-b"} 1');
  expect(left).toContain('hels_kv_remote_seconds_total{worker="w-b"} 1');
  workersRegistered = ['w-a'];
  metrics.error('w-a', 0.1);
  expect((await seriesOf('w-a')).join('\n')).toContain('_count{worker="w-a"} 1');
});
