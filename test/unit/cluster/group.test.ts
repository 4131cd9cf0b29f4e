import { describe, expect, it } from 'vitest';
import {
  applyGroupEvent,
  comingRequests,
  type GroupStep,
  initialGroup,
  retryDelayMs,
} from '../../../controller/cluster/group.ts';
import {
  chosen,
  deploy,
  deployFailed,
  joined,
  lost,
  requestFor,
  serving,
  threeReady,
  trace,
} from './trace.ts';

describe('a deployment that goes well', () => {
  it('becomes ready and ends when undeployed', () => {
    expect(trace([...threeReady, { type: 'undeploy' }]).text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
          persist-deployment llama
        ready(1)
      > undeploy
          persist-deployment nothing
          end-epoch(1) the model was undeployed
        empty(1)"
    `);
  });

  it('is not remembered when a file asks for it: the file may change before the next start', () => {
    const { text, group } = trace([deploy('llama', false), chosen(1, { a: 'a1' }), serving(1)]);
    expect(group.phase).toBe('ready');
    expect(text).not.toContain('persist');
  });

  it('goes on from the last epoch of an earlier life', () => {
    expect(trace([deploy('llama', false)], 41).group.epoch).toBe(42);
  });

  it('is not ready before its members are known', () => {
    expect(trace([deploy('llama'), serving(1)]).group.phase).toBe('deploying');
  });
});

describe('a loss while serving', () => {
  it('ends the epoch once and starts over with the workers that are left', () => {
    const recovery = trace([
      ...threeReady,
      lost('b', 'b1'),
      { type: 'epoch-failed', epoch: 1, reason: 'a step stream broke' },
      chosen(2, { a: 'a1', c: 'c1' }),
      serving(2),
    ]);
    expect(recovery.text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
          persist-deployment llama
        ready(1)
      > worker-lost b@b1
          end-epoch(1) worker 'b' was lost: silent
          start-deployment(2) llama
        deploying(2)
      > epoch-failed(1) a step stream broke
        deploying(2)
      > members-chosen(2) a@a1 c@c1
        deploying(2)
      > serving(2)
        ready(2)"
    `);
  });

  it('is followed by what is on its way, until that serves or is given up', () => {
    const steps = [lost('b', 'b1'), chosen(2, { a: 'a1' }), serving(2), lost('a', 'a1')];
    let { group } = trace(threeReady);
    const ids = () => comingRequests(group).map(({ modelId }) => modelId);
    const coming = [ids()];
    for (const event of steps) {
      group = applyGroupEvent(group, event).group;
      coming.push(ids());
    }
    expect(coming).toEqual([[], ['llama'], ['llama'], [], ['llama']]);
    group = applyGroupEvent(group, { type: 'undeploy' }).group;
    expect(ids()).toEqual([]);
  });

  it('may be on its way back while another deployment tries', () => {
    const deploy = (modelId: string) =>
      ({ type: 'deploy', request: requestFor(modelId), attended: true }) as const;
    let { group } = trace(threeReady);
    const ids = () => comingRequests(group).map(({ modelId }) => modelId);
    const replaced = trace([deploy('qwen'), deploy('opt')]);
    expect(replaced.text).toContain(
      'end-epoch(1) another deployment took its place: deploying /models/opt',
    );
    const coming: string[][] = [];
    for (const event of [
      deploy('qwen'),
      deploy('opt'),
      deployFailed(3, 'no'),
      chosen(4, { a: 'a1' }),
    ]) {
      group = applyGroupEvent(group, event).group;
      coming.push(ids());
    }
    expect(coming).toEqual([['qwen', 'llama'], ['opt', 'llama'], ['llama'], ['llama']]);
    group = applyGroupEvent(group, serving(4)).group;
    expect([group.phase, ids()]).toEqual(['ready', []]);
  });

  it('does not wait for as many workers as the deployment asked for', () => {
    const request = { ...requestFor('llama'), workersMin: 3 };
    const [, ...events] = threeReady;
    const ready = [{ type: 'deploy' as const, request, attended: true }, ...events].reduce(
      (group, event) => applyGroupEvent(group, event).group,
      initialGroup(0),
    );
    const step = applyGroupEvent(ready, lost('b', 'b1'));
    const started = step.effects.find(({ type }) => type === 'start-deployment');
    expect(started).toMatchObject({ request: { workersMin: 1 } });
    expect(step.group.request).toEqual(request);
  });

  it('does not disturb the group when the worker takes no part', () => {
    const before = trace(threeReady).group;
    expect(trace([...threeReady, lost('d', 'd1')]).group).toEqual(before);
  });

  it('ignores the end of an earlier life of a member', () => {
    expect(trace([...threeReady, lost('b', 'b0')]).group.phase).toBe('ready');
  });
});

describe('a loss during a deployment', () => {
  it('fails an attended one at once: the person who waits sees it', () => {
    const failed = trace([deploy('llama'), chosen(1, { a: 'a1' }), lost('a', 'a1')]);
    expect(failed.text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1
        deploying(1)
      > worker-lost a@a1
          end-epoch(1) worker 'a' was lost: silent
        failed(1)"
    `);
  });

  it('starts an unattended one again', () => {
    const again = trace([deploy('llama', false), chosen(1, { a: 'a1' }), lost('a', 'a1')]);
    expect(again.text).toMatchInlineSnapshot(`
      "> deploy llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1
        deploying(1)
      > worker-lost a@a1
          end-epoch(1) worker 'a' was lost: silent
          start-deployment(2) llama
        deploying(2)"
    `);
  });
});

describe('a deployment that fails', () => {
  it('brings back what served before', () => {
    const restored = trace([
      ...threeReady,
      deploy('qwen'),
      deployFailed(2, 'no split fits'),
      chosen(3, { a: 'a1' }),
      serving(3),
    ]);
    expect(restored.text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
          persist-deployment llama
        ready(1)
      > deploy qwen, attended
          end-epoch(1) deploying /models/qwen
          start-deployment(2) qwen
        deploying(2)
      > deploy-failed(2) no split fits
          end-epoch(2) no split fits
          start-deployment(3) llama
        deploying(3)
      > members-chosen(3) a@a1
        deploying(3)
      > serving(3)
        ready(3)"
    `);
  });

  it('brings it back over the workers that are left, however few', () => {
    const request = { ...requestFor('llama'), workersMin: 3 };
    const [, ...events] = threeReady;
    const { group } = [
      { type: 'deploy' as const, request, attended: true },
      ...events,
      deploy('qwen'),
    ].reduce((step, event) => applyGroupEvent(step.group, event), {
      group: initialGroup(0),
      effects: [],
    } as GroupStep);
    const { effects } = applyGroupEvent(group, deployFailed(2, 'a worker was lost'));
    const started = effects.find(({ type }) => type === 'start-deployment');
    expect(started).toMatchObject({ request: { modelId: 'llama', workersMin: 1 } });
  });

  it('brings back what last served, not what was being tried', () => {
    const { group } = trace([
      ...threeReady,
      deploy('qwen'),
      deploy('opt'),
      deployFailed(3, 'no split fits'),
    ]);
    expect(group.request?.modelId).toBe('llama');
  });

  it('stays failed when nothing served before', () => {
    const { group } = trace([deploy('llama'), deployFailed(1, 'no split fits'), joined]);
    expect(group).toMatchObject({ phase: 'failed', request: null, detail: 'no split fits' });
  });

  it('unattended, waits until the workers change', () => {
    const retried = trace([
      deploy('llama', false),
      deployFailed(1, 'no split fits'),
      joined,
      deployFailed(2, 'no split fits'),
      lost('a', 'a1'),
    ]);
    expect(retried.text).toMatchInlineSnapshot(`
      "> deploy llama
          start-deployment(1) llama
        deploying(1)
      > deploy-failed(1) no split fits
          end-epoch(1) no split fits
        waiting(1)
      > worker-joined
          start-deployment(2) llama
        deploying(2)
      > deploy-failed(2) no split fits
          end-epoch(2) no split fits
        waiting(2)
      > worker-lost a@a1
          start-deployment(3) llama
        deploying(3)"
    `);
  });

  it('unattended, tries again after a while, longer each time, until it serves', () => {
    const delays: number[] = [];
    let { group } = trace([deploy('llama', false)]);
    for (let epoch = 1; epoch <= 9; epoch += 1) {
      group = applyGroupEvent(group, { type: 'deploy-failed', epoch, reason: 'no etcd' }).group;
      expect(group.phase).toBe('waiting');
      delays.push(retryDelayMs(group));
      group = applyGroupEvent(group, { type: 'retry-due' }).group;
      expect([group.phase, group.epoch]).toEqual(['deploying', epoch + 1]);
    }
    expect(delays).toEqual([5, 10, 20, 40, 80, 160, 300, 300, 300].map((s) => 1000 * s));
    group = applyGroupEvent(group, chosen(10, { a: 'a1' })).group;
    group = applyGroupEvent(group, serving(10)).group;
    expect([group.phase, group.failures]).toEqual(['ready', 0]);
    expect(applyGroupEvent(group, { type: 'retry-due' })).toEqual({ group, effects: [] });
  });

  it('unattended, tries again at once when the workers changed while it ran', () => {
    const retried = trace([
      deploy('llama', false),
      joined,
      deployFailed(1, 'no split fits'),
      deployFailed(2, 'no split fits'),
    ]);
    expect(retried.text).toMatchInlineSnapshot(`
      "> deploy llama
          start-deployment(1) llama
        deploying(1)
      > worker-joined
        deploying(1)
      > deploy-failed(1) no split fits
          end-epoch(1) no split fits
          start-deployment(2) llama
        deploying(2)
      > deploy-failed(2) no split fits
          end-epoch(2) no split fits
        waiting(2)"
    `);
  });

  it('means nothing under an epoch that has passed', () => {
    const { group } = trace([...threeReady, lost('a', 'a1'), deployFailed(1, 'late')]);
    expect(group).toMatchObject({ phase: 'deploying', epoch: 2 });
  });
});
