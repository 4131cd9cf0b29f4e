/** When the controller plans anew by itself, over plans that are really made. */
import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { type DeploymentRequest, initialGroup } from '../../../controller/cluster/group.ts';
import { AutoReplan, holdsPromise, plansAnew } from '../../../controller/deployment/auto-replan.ts';
import type { ReplanWish } from '../../../controller/deployment/replan-proposal.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { StepLoad } from '../../../proto/domain/step-load.ts';
import { loaded, propose, request, slower } from './replan-setting.ts';

describe('the controller that looks by itself', () => {
  const light: StepLoad = {
    decodeTokens: 8,
    decodeContextTokens: 2048,
    prefillTokens: 0,
    prefillContextTokens: 0,
  };

  function looking(times: number, deployed: Partial<DeploymentRequest> = {}, serving = loaded) {
    let nowMs = 0;
    let steps = 0;
    const applied: number[] = [];
    const told: string[] = [];
    const files = { check: () => Promise.resolve() };
    const state = { times, trouble: null as number | null };
    const wishes: ReplanWish[] = [];
    const group = {
      ...initialGroup(1),
      epoch: 1 as number,
      phase: 'ready' as 'ready' | 'deploying',
      request: { ...request, ...deployed },
    };
    const auto = new AutoReplan({
      coordinator: { group, serving: { loaded: serving } },
      replanner: {
        propose: async (wish) => {
          wishes.push(wish);
          return propose(wish, { refine: slower(state.times), loaded: serving });
        },
        pauseOf: () => ({ seconds: 3, replaySeconds: 1 }) as never,
        checkFiles: () => files.check(),
        apply: (() => Promise.resolve(applied.push(nowMs))) as never,
      },
      served: () => ({ load: light, steps }),
      lastTrouble: () => state.trouble,
      clock: { nowMs: () => nowMs, unixMs: () => 0 },
      log: {
        info: (message: string, fields: object) => told.push(`${message} ${Object.values(fields)}`),
        error: (message: string, fields: object) =>
          told.push(`${message} ${Object.values(fields)}`),
      } as never,
    });
    const run = async (seconds: number, stepsEach = 1) => {
      for (let tick = 0; tick < 4 * seconds; tick += 1) {
        nowMs += 250;
        steps += stepsEach;
        auto.tick();
        // What it begins needs a few turns.
        if (tick % 20 === 0) await setImmediate();
      }
    };
    return { run, applied, wishes, group, told, files, state };
  }

  it('begins a re-plan at the load that is served when a device is slow for long', async () => {
    const { run, applied, wishes } = looking(3);
    await run(149);
    expect(applied).toEqual([]);
    await run(20);
    expect(applied).toHaveLength(1);
    expect(wishes[0]?.workload).toMatchObject({ sequences: 8, contextTokens: 256 });
  });

  it.each([
    ['nothing is better', 1, {}, 1],
    ['it is switched off', 3, { autoReplan: false }, 1],
    ['the split is by hand', 3, { ranks: [{ workerId: 'a', headGroups: 4, ffnWeight: 1 }] }, 1],
    ['a person chose a policy to look at', 3, { policy: 'equal' }, 1],
    ['nothing is served', 3, {}, 0],
  ] as const)('does nothing when %s', async (_, times, deployed, stepsEach) => {
    const { run, applied } = looking(times, deployed as Partial<DeploymentRequest>);
    await run(600, stepsEach);
    expect(applied).toEqual([]);
  });

  it('leaves the plan when the files changed, and tries again after its rest', async () => {
    const { run, applied, told, files } = looking(3);
    files.check = () => Promise.reject(new HelsError('digest-mismatch', 'other weights'));
    await run(280);
    expect(applied).toEqual([]);
    expect(told).toEqual(['no new plan other weights']);
    files.check = () => Promise.resolve();
    await run(160);
    expect(applied).toHaveLength(1);
  });

  it('proposes what it applies after the files were read, if it is still worth it', async () => {
    const { run, applied, wishes, files, state, group } = looking(3);
    let read: () => void = () => undefined;
    files.check = () =>
      new Promise((resolve) => {
        read = resolve;
      });
    await run(155);
    const looks = wishes.length;
    // While it reads it does not look.
    await run(60);
    expect(wishes).toHaveLength(looks);
    state.times = 1;
    read();
    await run(1);
    expect([applied, wishes.length]).toEqual([[], looks + 1]);
    state.times = 3;
    await run(160);
    group.phase = 'deploying';
    read();
    await run(1);
    expect(applied).toEqual([]);
    group.phase = 'ready';
    await run(160);
    read();
    await run(1);
    expect(applied).toHaveLength(1);
  });

  it('survives its own faults and says so', async () => {
    const { run, told, files } = looking(3);
    files.check = () => Promise.reject(new TypeError('no such field'));
    await run(200);
    expect(told).toEqual(['planning anew failed no such field']);
  });

  it('rests for an hour after trouble, once, and not after a deployment by hand', async () => {
    const { run, applied, state, group } = looking(3);
    state.trouble = 3;
    group.epoch = 3;
    await run(1800);
    // A loss: the same deployment over those that are left.
    group.epoch = 5;
    await run(1800);
    expect(applied).toEqual([]);
    await run(50);
    expect(applied).toHaveLength(1);
    state.trouble = 7;
    group.epoch = 8;
    await run(200);
    expect(applied).toHaveLength(1);
    state.trouble = null;
    group.epoch = 9;
    await run(160);
    expect(applied).toHaveLength(2);
  });

  it('takes back the room for KV that a loss has cost, whatever a step takes', async () => {
    const shardPlan = {
      ...loaded.shardPlan,
      kvBlocks: 100,
      ranks: loaded.shardPlan.ranks.slice(1),
    };
    const { run, applied, wishes } = looking(1, {}, { ...loaded, shardPlan });
    await run(149);
    expect(applied).toEqual([]);
    await run(20);
    expect(applied).toHaveLength(1);
    // For the deployment's own load, not that of the moment; and not at every look.
    const looks = wishes.filter(({ workload }) => workload === null);
    expect(looks.every(({ settles }) => settles === true)).toBe(true);
    expect(looks.length).toBeLessThan(8);
    // As much room as the deployment is for is no loss.
    const enough = { ...shardPlan, kvBlocks: 128, ranks: loaded.shardPlan.ranks };
    const other = looking(1, {}, { ...loaded, shardPlan: enough });
    await other.run(600);
    expect(other.applied).toEqual([]);
  });

  it('does nothing while another plan comes', async () => {
    const { run, applied, group } = looking(3);
    group.phase = 'deploying';
    await run(600);
    expect(applied).toEqual([]);
  });

  it('keeps room for what the deployment is for, whatever moment the last plan was made at', () => {
    const { shardPlan } = loaded;
    const light = { ...loaded.planRequest.workload, sequences: 1, contextTokens: 16 };
    const served = { shardPlan, planRequest: { ...loaded.planRequest, workload: light } };
    const holding = (kvBlocks: number) => ({ ...shardPlan, kvBlocks, kvBlockTokens: 16 });
    // Nobody said: 8 sequences of 256 tokens.
    expect(holdsPromise(served, request, holding(128))).toBe(true);
    expect(holdsPromise(served, request, holding(127))).toBe(false);
    const workload = { sequences: 2, contextTokens: 64, prefillChunk: 0, outputTokens: 0 };
    expect(holdsPromise(served, { workload }, holding(8))).toBe(true);
    // No less than there is now is no loss.
    const small = { ...served, shardPlan: holding(40) };
    expect(holdsPromise(small, request, holding(40))).toBe(true);
    expect(holdsPromise(small, request, holding(39))).toBe(false);
  });

  it('is for the policies that choose', () => {
    expect(plansAnew(request)).toBe(true);
    expect(plansAnew({ ...request, policy: '' })).toBe(true);
    expect(plansAnew({ ...request, policy: 'memory' })).toBe(false);
  });
});
