/** Profiling for people: when it is refused, and when it ends. */
import { setImmediate } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { type Group, initialGroup } from '../../../controller/cluster/group.ts';
import { ProfileService } from '../../../controller/deployment/profile-service.ts';
import type { ServedFiles } from '../../../controller/deployment/served-files.ts';
import { smallModel } from '../profiler/models.ts';
import { site } from './measured-site.ts';

function service(phase: Group['phase'], detail = '') {
  const { calls, ports, workers } = site();
  const measured = workers();
  const coordinator = {
    group: { ...initialGroup(3), phase, detail },
    served: { modelId: 'm', spec: smallModel } as ServedFiles,
    serving: null,
    availableWorkers: () => measured,
  };
  const clock = { nowMs: ports.nowMs, unixMs: ports.unixMs };
  const profiles = new ProfileService({ term: 1, coordinator, store: ports.store, clock });
  const run = async (signal = new AbortController().signal) => {
    const events = [];
    for await (const event of profiles.run('', false, signal)) events.push(event);
    return events;
  };
  return { calls, run, measured };
}

it.each(['deploying', 'replanning'] as const)(
  'is refused while the group is %s: it would end what the deployment measures',
  async (phase) => {
    const { calls, run } = service(phase);
    await expect(run()).rejects.toMatchObject({
      code: 'not-ready',
      message: expect.stringMatching(/is coming up; profile the workers once it serves/),
    });
    expect(calls.profiled).toEqual([]);
  },
);

it('measures while a deployment waits for its workers', async () => {
  const { calls, run } = service('deploying', 'waiting');
  expect((await run()).at(-1)).toHaveProperty('ready');
  expect(calls.profiled).toEqual(['a']);
});

it.each(['ready', 'waiting', 'empty', 'failed'] as const)(
  'measures while the group is %s',
  async (phase) => {
    const { calls, run } = service(phase);
    expect((await run()).at(-1)).toHaveProperty('ready');
    expect(calls.profiled).toEqual(['a']);
  },
);

it('ends with its caller: the worker that measures hears of it, and no other begins', async () => {
  const { calls, run, measured } = service('ready');
  const [first, second] = measured;
  if (first === undefined || second === undefined) throw new Error('there are no workers');
  // Another device than the first.
  second.device = { ...second.device, implementation: 'another' };
  const leaves = new AbortController();
  const measure = first.client.profile.bind(first.client);
  const told: unknown[] = [];
  first.client.profile = vi.fn(async (request, deadlineMs, onProgress) => {
    leaves.abort(new Error('left'));
    try {
      onProgress(0.5);
    } catch (error) {
      told.push(error);
      throw error;
    }
    return measure(request, deadlineMs, onProgress);
  });
  await expect(run(leaves.signal)).rejects.toMatchObject({ code: 'cancelled' });
  // Of what went on nothing waits for anything but turns.
  await setImmediate();
  expect(told).toMatchObject([{ message: 'left' }]);
  expect(calls.profiled).toEqual([]);
});
