import { expect, test } from 'vitest';
import { probeLinks } from '../../../controller/deployment/probe-links.ts';
import { profileWorkers } from '../../../controller/deployment/profile-workers.ts';
import { smallModel } from '../profiler/models.ts';
import { site } from './measured-site.ts';

test('equal devices are measured once, kept, and measured again for refresh, another build and another shape', async () => {
  const { calls, ports, workers, options } = site();
  const progress: string[] = [];
  const tell = (message: string) => progress.push(message);
  const runs = await profileWorkers(workers(), options(), ports, tell);
  expect(calls.profiled).toEqual(['a']);
  expect([...runs.values()].map(({ stored }) => stored)).toEqual([false, true]);
  expect(runs.get('b')?.fit.decode).toEqual(runs.get('a')?.fit.decode);
  expect(progress).toContain('b: its lines are stored');

  await profileWorkers(workers(), options(), ports, tell);
  expect(calls.profiled).toEqual(['a']);
  await profileWorkers(workers(), options(true), ports, tell);
  expect(calls.profiled).toEqual(['a', 'a', 'b']);
  await profileWorkers(workers('build 2'), options(), ports, tell);
  expect(calls.profiled).toHaveLength(4);
  await profileWorkers(workers(), options(false, { ...smallModel, layers: 5 }), ports, tell);
  expect(calls.profiled).toHaveLength(5);
});

test('lines of a grid for larger steps hold for smaller ones; those for smaller will do where nobody waits for better', async () => {
  const { calls, ports, workers, options } = site();
  const wide = { ...options(), stepTokensMax: 1024, sequencesMax: 256 };
  await profileWorkers(workers(), options(), ports, () => {});
  expect(calls.profiled).toHaveLength(1);
  const made = await profileWorkers(workers(), { ...wide, smallerToo: true }, ports, () => {});
  expect([...made.values()].map(({ stored }) => stored)).toEqual([true, true]);
  await profileWorkers(workers(), wide, ports, () => {});
  expect(calls.profiled).toHaveLength(2);

  const other = site();
  await profileWorkers(other.workers(), wide, other.ports, () => {});
  await profileWorkers(other.workers(), options(), other.ports, () => {});
  expect(other.calls.profiled).toHaveLength(1);
});

test('a device whose memory is in use is known by the lines of when it was idle', async () => {
  const { calls, ports, workers, options } = site();
  await profileWorkers(workers(), options(), ports, () => {});
  const serving = workers().map((worker) => ({
    ...worker,
    device: { ...worker.device, memoryFreeBytes: 2 ** 20 },
  }));
  const runs = await profileWorkers(serving, options(), ports, () => {});
  expect([...runs.values()].map(({ stored }) => stored)).toEqual([true, true]);
  expect(calls.profiled).toEqual(['a']);
});

test('a device without memory for one token is named, with what it has and what it takes', async () => {
  const { calls, ports, workers, options } = site();
  const [large, ...rest] = workers();
  if (large === undefined) throw new Error('there is no worker');
  const small = { ...large, id: 'small', device: { ...large.device, memoryBytes: 1024 } };
  await expect(profileWorkers([small, ...rest], options(), ports, () => {})).rejects.toMatchObject({
    code: 'plan-infeasible',
    message: expect.stringMatching(
      /^device memory of worker 'small' is 1\.00 KiB: KV of one token .* at least .* is needed; raise memory=/,
    ),
  });
  expect(calls.profiled).not.toContain('small');
});

test('a device too slow for the grid gets lines from the points it measured, in the order of the grid', async () => {
  const { ports, workers, options } = site(40);
  const runs = await profileWorkers(workers(), options(), ports, () => {});
  const run = runs.get('a');
  expect(run?.points).toHaveLength(40);
  const phases = run?.points.map(({ prefill, chunkTokens }) => (chunkTokens ? 2 : prefill ? 1 : 0));
  expect(phases).toEqual([...(phases ?? [])].sort());
  expect(run?.fit.phases.decode.heldOut.medianAbsolutePercent).toBeLessThan(1);
});

test('links are measured between the workers once, and are nothing for one alone', async () => {
  const { calls, ports, workers, options } = site();
  const links = await probeLinks(workers(), options(), ports, () => {});
  expect(links.get('a')?.constant).toBeCloseTo(1e-4, 8);
  expect(links.get('b')?.perToken).toBeCloseTo(1e-6, 8);
  expect(await probeLinks(workers(), options(), ports, () => {})).toEqual(links);
  expect(calls.probed).toEqual(['a', 'b']);
  await probeLinks(workers(), options(true), ports, () => {});
  expect(calls.probed).toHaveLength(4);
  const alone = await probeLinks(workers().slice(0, 1), options(), ports, () => {});
  expect(alone.get('a')).toEqual({ constant: 0, perToken: 0 });
  expect(calls.probed).toHaveLength(4);
});
