import { describe, expect, it } from 'vitest';
import type { GroupEvent } from '../../../controller/cluster/group.ts';
import {
  chosen,
  deploy,
  deployFailed,
  lost,
  requestFor,
  serving,
  threeReady,
  trace,
} from './trace.ts';

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
          persist-deployment llama
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
