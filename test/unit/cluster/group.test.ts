import { describe, expect, it } from 'vitest';
import {
  applyGroupEvent,
  type GroupEvent,
  initialGroup,
} from '../../../controller/cluster/group.ts';
import { requestFor, trace } from './trace.ts';

const deploy = (modelId: string, attended = true): GroupEvent => ({
  type: 'deploy',
  request: requestFor(modelId),
  attended,
});
const chosen = (epoch: number, members: Record<string, string>): GroupEvent => ({
  type: 'members-chosen',
  epoch,
  members: new Map(Object.entries(members)),
});
const serving = (epoch: number): GroupEvent => ({ type: 'serving', epoch });
const lost = (id: string, incarnation: string): GroupEvent => ({
  type: 'worker-lost',
  id,
  incarnation,
  reason: 'silent',
});
const deployFailed = (epoch: number, reason: string): GroupEvent => ({
  type: 'deploy-failed',
  epoch,
  reason,
});
const joined: GroupEvent = { type: 'worker-joined' };

const threeReady = [
  deploy('llama'),
  chosen(1, { a: 'a1', b: 'b1', c: 'c1' }),
  serving(1),
] satisfies GroupEvent[];

describe('a deployment that goes well', () => {
  it('becomes ready and ends when undeployed', () => {
    expect(trace([...threeReady, { type: 'undeploy' }]).text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          persist-deployment llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
        ready(1)
      > undeploy
          persist-deployment nothing
          end-epoch(1) the model was undeployed
        empty(1)"
    `);
  });

  it('goes on from the last epoch of an earlier life', () => {
    expect(trace([deploy('llama', false)], 41).group.epoch).toBe(42);
  });

  it('is not ready before its members are known', () => {
    expect(trace([deploy('llama'), serving(1)]).group.phase).toBe('deploying');
  });
});

describe('a plan that its warm-up refutes', () => {
  const replan = (epoch: number): GroupEvent => ({ type: 'replan', epoch, reason: 'too slow' });

  it('gives way to the next epoch, for the same caller', () => {
    const replanned = trace([
      deploy('llama'),
      chosen(1, { a: 'a1', b: 'b1' }),
      replan(1),
      chosen(2, { a: 'a1' }),
      serving(1),
      serving(2),
    ]);
    expect(replanned.text).toMatchInlineSnapshot(`
      "> deploy llama, attended
          persist-deployment llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1
        deploying(1)
      > replan(1) too slow
          end-epoch(1) too slow
          start-deployment(2) llama
        deploying(2)
      > members-chosen(2) a@a1
        deploying(2)
      > serving(1)
        deploying(2)
      > serving(2)
        ready(2)"
    `);
  });

  it('fails for the caller when the next epoch does, and what served before comes back', () => {
    const { group } = trace([
      ...threeReady,
      deploy('qwen'),
      chosen(2, { a: 'a1', b: 'b1' }),
      replan(2),
      deployFailed(3, 'no room'),
    ]);
    expect(group).toMatchObject({ phase: 'deploying', epoch: 4, request: requestFor('llama') });
  });

  it('is too late once it serves', () => {
    expect(trace([...threeReady, replan(1)]).group).toMatchObject({ phase: 'ready', epoch: 1 });
  });
});

describe('a re-plan of what serves', () => {
  const begun = (epoch: number, members: Record<string, string>): GroupEvent => ({
    type: 'replan-begun',
    epoch,
    request: { ...requestFor('llama'), policy: 'equal' },
    members: new Map(Object.entries(members)),
    reason: 'asked for',
  });
  const failed = (epoch: number): GroupEvent => ({
    type: 'replan-failed',
    epoch,
    reason: 'no memory',
  });

  it('brings the requests over and remembers the new request when it serves', () => {
    const replanned = trace([
      ...threeReady,
      begun(1, { a: 'a1', c: 'c1' }),
      serving(1),
      serving(2),
    ]);
    expect(replanned.text.split('\n').slice(7).join('\n')).toMatchInlineSnapshot(`
      "  ready(1)
      > replan-begun(1) a@a1 c@c1
          start-replan(2)
        replanning(2)
      > serving(1)
        replanning(2)
      > serving(2)
          persist-deployment llama
        ready(2)"
    `);
    expect(replanned.group.request?.policy).toBe('equal');
  });

  it('goes back when the new plan does not come to serve, and ends as a loss does when that fails too', () => {
    const back = trace([...threeReady, begun(1, { a: 'a1' }), failed(2), failed(2), failed(3)]);
    expect(back.text.split('\n').slice(7).join('\n')).toMatchInlineSnapshot(`
      "  ready(1)
      > replan-begun(1) a@a1
          start-replan(2)
        replanning(2)
      > replan-failed(2) no memory
          start-replan(3) back
        replanning(3)
      > replan-failed(2) no memory
        replanning(3)
      > replan-failed(3) no memory
          end-epoch(3) no memory
          start-deployment(4) llama
        deploying(4)"
    `);
    expect(
      trace([...threeReady, begun(1, { a: 'a1' }), failed(2), serving(3)]).group,
    ).toMatchObject({
      phase: 'ready',
      epoch: 3,
      request: requestFor('llama'),
      members: new Map([
        ['a', 'a1'],
        ['b', 'b1'],
        ['c', 'c1'],
      ]),
    });
  });

  it('goes back when a worker is lost that only the new plan has', () => {
    const { group } = trace([...threeReady, begun(1, { a: 'a1', d: 'd1' }), lost('d', 'd1')]);
    expect(group).toMatchObject({ phase: 'replanning', epoch: 3 });
  });

  it('goes on without a worker that leaves, but then there is no way back', () => {
    const without = [...threeReady, begun(1, { a: 'a1' }), lost('c', 'c1')];
    expect(trace(without).group).toMatchObject({ phase: 'replanning', epoch: 2 });
    expect(trace([...without, failed(2)]).group).toMatchObject({ phase: 'deploying', epoch: 3 });
  });

  it('ends with the loss of a worker of both plans', () => {
    const lostBoth = trace([...threeReady, begun(1, { a: 'a1', c: 'c1' }), lost('a', 'a1')]);
    expect(lostBoth.text).toContain("end-epoch(2) worker 'a' was lost");
    expect(lostBoth.group).toMatchObject({ phase: 'deploying', epoch: 3, replan: null });
  });

  it('is not needed for a wish that is fulfilled: it is remembered, and what serves goes on', () => {
    const wish = (epoch: number): GroupEvent => ({
      type: 'request-changed',
      epoch,
      request: { ...requestFor('llama'), policy: 'equal' },
    });
    const kept = trace([...threeReady, wish(1)]);
    expect(kept.text.split('\n').slice(7).join('\n')).toMatchInlineSnapshot(`
      "  ready(1)
      > request-changed(1) equal
          persist-deployment llama
        ready(1)"
    `);
    expect(kept.group.request?.policy).toBe('equal');
    expect(trace([...threeReady, begun(1, { a: 'a1' }), wish(2)]).group).toMatchObject({
      phase: 'replanning',
      request: requestFor('llama'),
    });
  });

  it('is not begun by what is no longer served, nor twice', () => {
    expect(trace([...threeReady, begun(7, { a: 'a1' })]).group.phase).toBe('ready');
    const twice = trace([...threeReady, begun(1, { a: 'a1' }), begun(2, { c: 'c1' })]);
    expect(twice.group).toMatchObject({ epoch: 2, members: new Map([['a', 'a1']]) });
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
          persist-deployment llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
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
          persist-deployment llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1
        deploying(1)
      > worker-lost a@a1
          end-epoch(1) worker 'a' was lost: silent
          persist-deployment nothing
        failed(1)"
    `);
  });

  it('starts an unattended one again', () => {
    const again = trace([deploy('llama', false), chosen(1, { a: 'a1' }), lost('a', 'a1')]);
    expect(again.text).toMatchInlineSnapshot(`
      "> deploy llama
          persist-deployment llama
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
          persist-deployment llama
          start-deployment(1) llama
        deploying(1)
      > members-chosen(1) a@a1 b@b1 c@c1
        deploying(1)
      > serving(1)
        ready(1)
      > deploy qwen, attended
          persist-deployment qwen
          end-epoch(1) deploying /models/qwen
          start-deployment(2) qwen
        deploying(2)
      > deploy-failed(2) no split fits
          persist-deployment llama
          end-epoch(2) no split fits
          start-deployment(3) llama
        deploying(3)
      > members-chosen(3) a@a1
        deploying(3)
      > serving(3)
        ready(3)"
    `);
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
          persist-deployment llama
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

  it('unattended, tries again at once when the workers changed while it ran', () => {
    const retried = trace([
      deploy('llama', false),
      joined,
      deployFailed(1, 'no split fits'),
      deployFailed(2, 'no split fits'),
    ]);
    expect(retried.text).toMatchInlineSnapshot(`
      "> deploy llama
          persist-deployment llama
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
