import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeploymentState } from '../../../controller/deployment/deployment-state.ts';
import { keys } from '../../../controller/store/keys.ts';
import { campaign, type Leadership } from '../../../controller/store/leadership.ts';
import { MemoryStore } from '../../../controller/store/memory-store.ts';
import type { ShardPlan__Output } from '../../../proto/gen/hels/v1/ShardPlan.ts';
import { requestFor } from '../cluster/trace.ts';

const planOf = (epoch: number) => ({ epoch, ranks: [] }) as unknown as ShardPlan__Output;

describe('the stored deployment', () => {
  let store: MemoryStore;
  let leadership: Leadership;
  let state: DeploymentState;
  beforeEach(async () => {
    store = new MemoryStore();
    leadership = await campaign(store, 'test', new AbortController().signal);
    state = new DeploymentState(store, leadership);
  });
  afterEach(() => store.close());

  it('is what was saved last, for the next leader too', async () => {
    expect(await state.loadDeployment()).toBeNull();
    await Promise.all([
      state.saveDeployment(requestFor('llama')),
      state.saveDeployment(requestFor('qwen')),
    ]);
    await leadership.resign();
    const next = await campaign(store, 'next', new AbortController().signal);
    const later = new DeploymentState(store, next);
    expect(await later.loadDeployment()).toEqual(requestFor('qwen'));
    await later.saveDeployment(null);
    expect(await later.loadDeployment()).toBeNull();
  });

  it('is not touched by a leader of an older term', async () => {
    await state.saveDeployment(requestFor('llama'));
    await leadership.resign();
    await campaign(store, 'next', new AbortController().signal);
    const stale = { code: 'stale-fence' };
    await expect(state.saveDeployment(null)).rejects.toMatchObject(stale);
    await expect(state.savePlan(planOf(1))).rejects.toMatchObject(stale);
    expect(await state.loadDeployment()).toEqual(requestFor('llama'));
    expect(await store.list(keys.plansPrefix)).toEqual([]);
  });

  it('has the drained workers beside it, for the next leader too', async () => {
    expect(await state.loadDrained()).toEqual([]);
    await state.saveDrained(['a', 'b']);
    await state.saveDrained(['b']);
    await leadership.resign();
    await expect(state.saveDrained([])).rejects.toMatchObject({ code: 'stale-fence' });
    const next = await campaign(store, 'next', new AbortController().signal);
    expect(await new DeploymentState(store, next).loadDrained()).toEqual(['b']);
  });

  it('is written on condition of what it replaces, so that a delayed write undoes nothing', async () => {
    const conditions: unknown[] = [];
    const recorded: Leadership = {
      ...leadership,
      write: (asked, writes) => {
        conditions.push(...asked);
        return leadership.write(asked, writes);
      },
    };
    const recording = new DeploymentState(store, recorded);
    await recording.saveDeployment(requestFor('llama'));
    const held = await store.get(keys.deployment);
    await recording.saveDeployment(requestFor('qwen'));
    expect(conditions).toEqual([
      { key: keys.deployment, revision: 0 },
      { key: keys.deployment, revision: held?.revision },
    ]);
  });
});

describe('the stored plans', () => {
  it('have one plan per epoch for ever; the newest are kept', async () => {
    const store = new MemoryStore();
    const leadership = await campaign(store, 'test', new AbortController().signal);
    const state = new DeploymentState(store, leadership);
    expect(await state.lastEpoch()).toBe(0);
    for (let epoch = 1; epoch <= 25; epoch += 1) await state.savePlan(planOf(epoch));
    expect(await state.lastEpoch()).toBe(25);
    const kept = await store.list(keys.plansPrefix);
    expect(kept.map(({ value }) => JSON.parse(value).epoch)).toEqual(
      Array.from({ length: 20 }, (_, index) => index + 6),
    );
    await expect(state.savePlan(planOf(25))).rejects.toThrow(
      'a plan of epoch 25 is stored already',
    );
    await expect(state.savePlanAhead(planOf(25))).rejects.toThrow('is stored already');
    // One refusal does not block what comes after it.
    await state.savePlan(planOf(26));
    await store.close();
  });

  it('may change before their epoch begins, also when the store did not say whether it has them', async () => {
    const store = new MemoryStore();
    const leadership = await campaign(store, 'test', new AbortController().signal);
    let silent = false;
    const write: Leadership['write'] = async (asked, writes) => {
      const saved = await leadership.write(asked, writes);
      if (silent) throw new Error('no answer');
      return saved;
    };
    const state = new DeploymentState(store, { ...leadership, write });
    const modelOf = async () => JSON.parse((await store.get(keys.plan(2)))?.value ?? '{}').modelId;
    const named = (modelId: string) => ({ ...planOf(2), modelId });
    silent = true;
    await expect(state.savePlanAhead(named('first'))).rejects.toThrow('no answer');
    silent = false;
    await state.savePlanAhead(named('second'));
    expect(await modelOf()).toBe('second');
    // The epoch goes to something else.
    await state.savePlan(named('third'));
    expect(await modelOf()).toBe('third');
    await expect(state.savePlan(named('fourth'))).rejects.toThrow('is stored already');
    expect(await state.lastEpoch()).toBe(2);
    await store.close();
  });
});
