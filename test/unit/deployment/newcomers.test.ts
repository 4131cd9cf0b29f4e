import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { type Group, initialGroup } from '../../../controller/cluster/group.ts';
import type { LoadedGroup } from '../../../controller/deployment/deployment-run.ts';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import { Newcomers, withNewcomers } from '../../../controller/deployment/newcomers.ts';
import { probeLinks } from '../../../controller/deployment/probe-links.ts';
import { profileWorkers } from '../../../controller/deployment/profile-workers.ts';
import { createLogger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { site } from './measured-site.ts';
import { loaded, propose } from './replan-setting.ts';

const ids = ['a', 'b', 'c'];

/** Workers a and b serve; all three were measured together before. */
async function setUp() {
  const { calls, ports, workers, options } = site();
  const all = workers('build 1', ids);
  await profileWorkers(all, options(), ports, () => undefined);
  await probeLinks(all, options(), ports, () => undefined);
  const group: LoadedGroup = { ...loaded, candidates: all.slice(0, 2), workers: all.slice(0, 2) };
  const again = { ...(all[2] as GroupWorker), incarnation: '2' };
  return { calls, store: ports.store, all, group, again };
}

const idsOf = (workers: readonly { id: string }[]) => workers.map(({ id }) => id);

describe('a worker that joins a group that serves', () => {
  it('is planned with when all of it is stored', async () => {
    const { calls, store, all, group } = await setUp();
    const measured = { ...calls, profiled: [...calls.profiled], probed: [...calls.probed] };
    const next = await withNewcomers(group, all, store);
    expect(idsOf(next?.candidates ?? [])).toEqual(ids);
    expect(idsOf(next?.planRequest.devices ?? [])).toEqual(ids);
    expect([...(next?.profiles.keys() ?? [])]).toEqual(ids);
    // The links of this set of workers, for everybody.
    const [first, , last] = next?.planRequest.devices ?? [];
    expect(first?.link).toEqual(last?.link);
    expect(first?.link).not.toEqual(group.planRequest.devices[0]?.link);
    // Its engine has candidates of one more rank: two words for each sequence.
    const sequences = group.planRequest.sequencesMax;
    expect(first?.reservedBytes).toBe(16 * sequences);
    expect(next?.shardPlan).toBe(group.shardPlan);
    expect({ ...calls }).toEqual(measured);
    const proposal = propose({ policy: 'equal' }, { loaded: next, available: all });
    expect(idsOf(proposal.workers)).toEqual(ids);
  });

  it('takes the place of its former life', async () => {
    const { store, all, group, again } = await setUp();
    const there = (await withNewcomers(group, all, store)) as LoadedGroup;
    const next = await withNewcomers(there, [...all.slice(0, 2), again], store);
    expect(next?.candidates.map(({ id, incarnation }) => `${id}${incarnation}`)).toEqual([
      'a1',
      'b1',
      'c2',
    ]);
  });

  it.each([
    ['it was never measured', 'build 2', ids],
    ['its links with these others were not', 'build 1', ['a', 'c']],
  ])('is left out when %s', async (_, implementation, there) => {
    const { store, all, group } = await setUp();
    const { workers } = site();
    const newcomer = workers(implementation, ['c']);
    const others = all.filter(({ id }) => id !== 'c' && there.includes(id));
    expect(await withNewcomers(group, [...others, ...newcomer], store)).toBeNull();
  });
});

describe('looking for newcomers', () => {
  async function watching() {
    const setting = await setUp();
    const told: string[] = [];
    const joined: string[] = [];
    const state = {
      nowMs: 0,
      group: { ...initialGroup(1), phase: 'ready' } as Group,
      loaded: setting.group,
      available: setting.all.slice(0, 2),
    };
    const newcomers = new Newcomers({
      coordinator: {
        get group() {
          return state.group;
        },
        get serving() {
          return { loaded: state.loaded };
        },
        availableWorkers: () => state.available,
        replaceCandidates: (of, by) => {
          if (state.loaded !== of) return false;
          state.loaded = by;
          return true;
        },
      },
      store: setting.store,
      term: 1,
      tracker: { joined: (workerId) => joined.push(workerId) },
      events: {
        tell: (kind, workerId, message) => {
          told.push(`${kind} ${workerId}${message.includes('may use it') ? '' : ' later'}`);
        },
      },
      clock: { nowMs: () => state.nowMs, unixMs: () => 0 },
      log: createLogger('test', 'error'),
    });
    const look = async () => {
      newcomers.tick();
      // Nothing here waits for anything but turns.
      await setImmediate();
    };
    return { ...setting, state, told, joined, look };
  }

  it('tells of each once, after it has let go of what it held', async () => {
    const { state, told, joined, look, all, calls } = await watching();
    await look();
    expect(told).toEqual([]);
    state.available = all;
    await look();
    await look();
    expect(told).toEqual(['joined c']);
    expect(joined).toEqual(['c']);
    expect(calls.released).toEqual(['c']);
    expect(idsOf(state.loaded.candidates)).toEqual(ids);
  });

  it('tries again later when one does not say that it has let go', async () => {
    const { state, told, look, all } = await watching();
    const [a, b, c] = all as [GroupWorker, GroupWorker, GroupWorker];
    const late = () => Promise.reject(new HelsError('deadline-exceeded', 'no answer'));
    const silent = { ...c, client: { ...c.client, release: late } } as unknown as GroupWorker;
    state.available = [a, b, silent];
    await look();
    expect(idsOf(state.loaded.candidates)).toEqual(['a', 'b']);
    state.available = all;
    state.nowMs += 10_000;
    await look();
    expect(told).toEqual(['joined c']);
  });

  it('never lets go of one that serves, though it says to have another life', async () => {
    const { state, told, look, calls } = await watching();
    state.available = state.available.map((one) => ({ ...one, incarnation: 'another' }));
    await look();
    expect(calls.released).toEqual([]);
    expect(told).toEqual([]);
  });

  it('leaves out whom a trial has left out', async () => {
    const { state, told, look, all, again } = await watching();
    state.loaded = { ...state.loaded, candidates: all };
    state.available = [...all.slice(0, 2), again];
    await look();
    expect(told).toEqual([]);
  });

  it('looks again some seconds after something did not answer', async () => {
    const { state, told, look, all } = await watching();
    const describe = () => Promise.reject(new Error('silent'));
    state.available = all.map((one) =>
      one.id === 'c' ? ({ ...one, client: { ...one.client, describe } } as never) : one,
    );
    await look();
    state.available = all;
    await look();
    expect(told).toEqual([]);
    state.nowMs = 10_000;
    await look();
    expect(told).toEqual(['joined c']);
  });

  it('waits while plans change, and does not ask again for one that cannot be planned with', async () => {
    const { state, told, look } = await watching();
    state.available = [...state.available, ...site().workers('build 2', ['c'])];
    state.group = { ...state.group, phase: 'replanning' };
    await look();
    expect(told).toEqual([]);
    state.group = { ...state.group, phase: 'ready' };
    await look();
    await look();
    state.group = { ...state.group, epoch: 2 };
    await look();
    expect(told).toEqual(['joined c later']);
    expect(idsOf(state.loaded.candidates)).toEqual(['a', 'b']);
  });
});
