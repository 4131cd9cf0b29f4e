import { Registry } from 'prom-client';
import { expect, it, vi } from 'vitest';
import { ServingMetrics } from '../../../controller/metrics/serving-metrics.ts';

it('a scrape reads the gauges once: counting KV holds up those who wait for tokens', async () => {
  const read = vi.fn(() => ({
    requestsRunning: 1,
    requestsWaiting: 2,
    kvBlocksUsed: 3,
    kvBlocksTotal: 4,
    kvBlocksCached: 5,
    kvParkedBlocksUsed: 6,
    kvParkedBlocksTotal: 7,
    kvOfRanks: [],
    recomputeTax: 0.5,
    workersRegistered: [],
    workersAlive: 8,
    epoch: 9,
  }));
  const metrics = new ServingMetrics(new Registry(), read);
  const lines = (await metrics.text()).split('\n');
  expect(read).toHaveBeenCalledTimes(1);
  expect(lines.filter((line) => /^hels_\w+ [1-9]/.test(line))).toEqual([
    'hels_kv_parked_blocks_used 6',
    'hels_kv_parked_blocks_total 7',
    'hels_requests_running 1',
    'hels_requests_waiting 2',
    'hels_kv_blocks_used 3',
    'hels_kv_blocks_cached 5',
    'hels_kv_blocks_total 4',
    'hels_workers_alive 8',
    'hels_plan_epoch 9',
  ]);
  expect(lines).toContain('hels_recompute_tax_ratio 0.5');
});
