/** What a re-plan is made of while its plan is made beside the event loop. */
import { afterAll, expect, it } from 'vitest';
import { initialGroup } from '../../../controller/cluster/group.ts';
import { type MadePlan, makePlan } from '../../../controller/deployment/make-plan.ts';
import { planThread } from '../../../controller/deployment/plan-thread.ts';
import { ReplanService } from '../../../controller/deployment/replan-service.ts';
import { available, loaded, nothing, propose, request } from './replan-setting.ts';

const thread = planThread();
afterAll(() => thread.close());

it('a plan is made on a thread as it would be here', async () => {
  const { planRequest } = propose({});
  const { shardPlan, input } = await thread.run(planRequest);
  expect({ shardPlan, input }).toEqual(makePlan(planRequest, () => 0));

  const small = planRequest.devices.map((device) => ({ ...device, memoryBytes: 1 }));
  await expect(thread.run({ ...planRequest, devices: small })).rejects.toMatchObject({
    name: 'HelsError',
    code: 'plan-infeasible',
  });
});

function planning() {
  let asked = 0;
  let done: (made: MadePlan) => void = () => undefined;
  const coordinator = {
    group: { ...initialGroup(1), phase: 'ready', request },
    serving: { loaded },
    availableWorkers: () => available,
  };
  const service = new ReplanService({
    coordinator: coordinator as never,
    log: {} as never,
    refine: (devices) => [...devices],
    makePlan: () =>
      new Promise((resolve) => {
        asked += 1;
        done = resolve;
      }),
  });
  const proposal = service.propose(nothing);
  const made = () => done(propose({}).made);
  return { coordinator, proposal, made, asked: () => asked };
}

it('what is served is proposed for as it was when the planning began', async () => {
  const { proposal, made } = planning();
  made();
  expect(await proposal).toEqual(propose({}));
});

it.each([
  ['another plan comes', { group: { ...initialGroup(1), phase: 'replanning', request } }],
  [
    'it is to be another',
    { group: { ...initialGroup(1), phase: 'ready', request: { ...request } } },
  ],
])('nothing is proposed when %s meanwhile', async (_, change) => {
  const { coordinator, proposal, made } = planning();
  Object.assign(coordinator, change);
  made();
  await expect(proposal).rejects.toMatchObject({
    code: 'not-ready',
    message: 'what is served has changed while it was planned anew',
  });
});

it('it is planned once more when another plan serves the same meanwhile', async () => {
  const { coordinator, proposal, made, asked } = planning();
  Object.assign(coordinator, { serving: { loaded: { ...loaded } } });
  made();
  await expect.poll(asked).toBe(2);
  made();
  expect(await proposal).toEqual(propose({}));
});
