/** What the APIs see of the group being served. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { KvPathTracker } from '../../../controller/deployment/kv-path-tracker.ts';
import { SwitchingEngine } from '../../../controller/engine/generation-engine.ts';
import { requestOf } from '../../support/generation-requests.ts';
import {
  answerAll,
  read,
  rebase,
  setUp,
  submit,
  tokensOf,
  turn,
} from '../../support/step-loop-setting.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

function attached() {
  const test = setUp();
  const engine = new SwitchingEngine();
  const { kvBlocks, kvBlockTokens, contextTokensMax } = test.limits;
  engine.attach({
    loop: test.loop,
    limits: { modelId: 'm', modelDigest: 'd', numericsClass: 'exact', contextTokensMax },
    residency: { kvBlocks, kvBlockTokens, kvParkedBlocks: 0, deviceBlocks: [16, 16], loans: [] },
    kvPaths: new KvPathTracker(),
    workerIds: ['worker-0', 'worker-1'],
  });
  return { test, engine };
}

describe('the limits of the group', () => {
  it('are unknown while none is served', () => {
    expect(new SwitchingEngine().limits()).toBeNull();
  });

  it('are those of the next plan from when one with less KV is prepared, so that newcomers wait for it', async () => {
    const { test, engine } = attached();
    expect(engine.limits()?.contextTokensMax).toBe(64);
    submit(test, requestOf('runs', 5, 9));
    test.loop.reserve(20);
    expect(engine.limits()).toMatchObject({ modelId: 'm', contextTokensMax: 20 });
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    // As the API fills in the bound of a request that names none.
    const rest = (engine.limits()?.contextTokensMax ?? 0) - 5;
    const late = read(engine.generate(requestOf('late', 5, rest), new AbortController().signal));
    const { ranks, rebased } = rebase(test, 5, 5);
    answerAll({ ranks });
    await rebased;
    await turn();
    expect(tokensOf(late)).toHaveLength(15);
    expect(engine.limits()?.contextTokensMax).toBe(20);
  });

  it('are the former ones again when the plan is given up', () => {
    const { test, engine } = attached();
    test.loop.reserve(20);
    test.loop.reserve(Number.POSITIVE_INFINITY);
    expect(engine.limits()?.contextTokensMax).toBe(64);
  });
});
