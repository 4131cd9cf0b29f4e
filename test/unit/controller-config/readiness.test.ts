import { expect, it } from 'vitest';
import { initialGroup } from '../../../controller/cluster/group.ts';
import { limits } from '../../../controller/limits.ts';
import { readinessOf } from '../../../controller/readiness.ts';

const nowMs = 1_000_000;
const never = Number.NEGATIVE_INFINITY;
const justNow = nowMs - limits.silentReadyMsMax;

it.each([
  ['empty', null, false],
  ['deploying', null, false],
  ['waiting', null, false],
  ['ready', null, true],
  // After a loss, without a warm-up: nothing went through these ranks.
  ['ready', never, false],
  ['replanning', never, false],
  // The plan before served a moment ago.
  ['replanning', justNow, true],
  ['ready', justNow, true],
  ['replanning', justNow - 1, false],
] as const)('%s, silent since %s: ready %s', (phase, silentSinceMs, ready) => {
  const group = { ...initialGroup(7), phase, detail: 'why' };
  const told = readinessOf(group, silentSinceMs, nowMs);
  expect(told.ready).toBe(ready);
  const silent = !ready && silentSinceMs !== null;
  const silence = silent ? '; no token went through the ranks of epoch 7 yet' : '';
  expect(told.reason).toBe(`${phase}: why${silence}`);
  expect(told.phase).toBe(`${phase}${silence}`);
});
