/** What a deployment's engine runs at once follows from its load, and a re-plan keeps it or lets it grow. */
import { describe, expect, it } from 'vitest';
import {
  engineSizesOf,
  largerSizes,
  smallestSizes,
} from '../../../controller/deployment/engine-sizes.ts';
import { workloadMax } from '../../../proto/domain/workload.ts';
import { loaded, propose } from './replan-setting.ts';

const sizes = { sequences: 0, contextTokens: 16, prefillChunk: 0, outputTokens: 0 };
const sizesOf = ({ made }: ReturnType<typeof propose>) => {
  const { sequencesMax, stepTokensMax } = made.shardPlan;
  return { sequencesMax, stepTokensMax };
};

describe('the sizes of an engine', () => {
  it.each([
    [8, 256, 64, 512],
    [64, 512, 64, 512],
    [96, 256, 96, 512],
    [300, 256, 300, 556],
    [300, 400, 300, 600],
    [8, 4096, 64, 4096],
    [workloadMax.sequences, workloadMax.prefillChunk, 1024, 8192],
  ])(
    'of %i sequences in chunks of %i are %i sequences and %i tokens a step',
    (sequences, prefillChunk, sequencesMax, stepTokensMax) => {
      expect(engineSizesOf({ sequences, prefillChunk })).toEqual({ sequencesMax, stepTokensMax });
    },
  );

  it('of two loads take both', () => {
    const wide = engineSizesOf({ sequences: 300, prefillChunk: 256 });
    const long = engineSizesOf({ sequences: 1, prefillChunk: 4096 });
    expect(largerSizes(wide, long)).toEqual({ sequencesMax: 300, stepTokensMax: 4096 });
  });
});

describe('a re-plan', () => {
  it('for more sequences or longer chunks is another plan, whose engines need more', () => {
    const wide = propose({ workload: { ...sizes, sequences: 96 } });
    expect(wide.equal).toBe(false);
    expect(sizesOf(wide)).toEqual({ sequencesMax: 96, stepTokensMax: 512 });
    const long = propose({ workload: { ...sizes, prefillChunk: 4096 } });
    expect(long.equal).toBe(false);
    expect(sizesOf(long)).toEqual({ sequencesMax: 64, stepTokensMax: 4096 });
    const reserved = ({ fitted }: typeof long) => fitted.map(({ reservedBytes }) => reservedBytes);
    const [before = 0] = reserved(propose({}));
    expect(before).toBe(loaded.planRequest.devices[0]?.reservedBytes);
    expect(Math.min(...reserved(long))).toBeGreaterThan(before + 4096 * 4);
  });

  it('for fewer keeps the slots: whoever runs goes on', () => {
    const served = propose({ workload: { ...sizes, sequences: 96, prefillChunk: 1024 } });
    const { made, planRequest } = served;
    const wide = { ...loaded, ...made, planRequest };
    const few = propose(
      { workload: { ...sizes, sequences: 1, prefillChunk: 16 } },
      { loaded: wide },
    );
    expect(sizesOf(few)).toEqual({ sequencesMax: 96, stepTokensMax: 1024 });
    // As at the load of a moment.
    expect(sizesOf(propose({}, { loaded: wide }))).toEqual(sizesOf(served));
  });

  it('starts from the smallest there are', () => {
    expect(sizesOf(propose({}))).toEqual(smallestSizes);
  });
});
