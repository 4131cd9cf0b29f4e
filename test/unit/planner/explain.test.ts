import { describe, expect, test } from 'vitest';
import { explain } from '../../../controller/planner/explain.ts';
import { plan } from '../../../controller/planner/plan.ts';
import type { PlanInput, PlanPolicy } from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

const explained = (input: PlanInput, policy: PlanPolicy = 'hels') => {
  const named = { ...input, policy };
  return explain(
    named,
    plan(named, () => 0),
  );
};

describe('what each device waits for', () => {
  test('the slowest waits for none, the other for it, with the seconds of the plan', () => {
    const input = smallInput([
      device('fast', { perHeadGroup: 1 }),
      device('slow', { perHeadGroup: 3 }),
    ]);
    const { devices } = explained(input, 'equal');
    // Two head groups each: 2 s and 6 s.
    expect(devices[1]).toMatchObject({
      seconds: 6,
      idleSeconds: 0,
      waitsFor: null,
      obstacle: null,
    });
    expect(devices[0]).toMatchObject({ seconds: 2, idleSeconds: 4, waitsFor: 'slow' });
    expect(devices[0]?.obstacle).toBe('policy');
    expect(devices[0]?.text).toContain('policy equal does not move it');
  });

  test('a whole unit that takes too long is granularity', () => {
    const input = smallInput([
      device('fast', { perHeadGroup: 1 }),
      device('slow', { perHeadGroup: 2.5 }),
    ]);
    // 3 s and 2.5 s; a fourth group on the slow one would take 5 s.
    const { devices, binding } = explained(input);
    expect(devices[1]).toMatchObject({ obstacle: 'granularity', waitsFor: 'fast' });
    expect(devices[1]?.text).toContain('its step would be 5000.00 ms, the slowest is 3000.00 ms');
    expect(binding).toMatchObject({ constraint: 'granularity', devices: ['slow'] });
  });

  test('memory and KV that lack are named in bytes', () => {
    // Weights of the fast device at 2 groups and half of all else: 160 + 2*512 + 8*96 + 5*16 = 2032; KV of 20 tokens: 2*20*32 = 1280.
    const cramped = (memoryBytes: number) =>
      explained(
        smallInput([
          device('fast', { perHeadGroup: 1 }, { memoryBytes }),
          device('slow', { perHeadGroup: 3 }),
        ]),
        'equal',
      ).devices[0];
    // One group more needs 512 of weights and 640 of KV.
    expect(cramped(2032 + 1280 + 100)).toMatchObject({ obstacle: 'kv' });
    expect(cramped(2032 + 1280 + 100)?.text).toContain('1.03 KiB lack for the KV');
    expect(cramped(2032 + 1280 + 1052)?.text).toContain('100 B lack');
  });

  test('a device that is left out says so', () => {
    const input = smallInput([
      device('fast', { perHeadGroup: 1 }),
      device('hopeless', { constant: 100, perHeadGroup: 1 }),
    ]);
    const { devices } = explained(input);
    expect(devices[1]).toMatchObject({ used: false, seconds: 0, obstacle: 'granularity' });
    expect(devices[1]?.text).toContain('is left out');
    // None of its memory is of use.
    expect(devices[1]?.strandedBytes).toBe(1e9);
  });

  describe.each(['step', 'lockstep'] as const)(
    'a plan of one device, objective %s',
    (objective) => {
      const link = { constant: 2.5, perToken: 0 };
      const alone = (other: number) =>
        explained({
          ...smallInput([
            device('fast', { perHeadGroup: 1 }, { link }),
            device('other', { perHeadGroup: other }, { link }),
          ]),
          objective,
        });

      test('a second one would make the first pay the link too', () => {
        // 4 s alone. With a group on the other one, which then takes 3.5 s, both pay the link: 3 s and 2.5 s.
        const { binding, devices } = alone(1);
        expect(devices[1]).toMatchObject({ used: false, obstacle: 'link' });
        expect(devices[1]?.text).toContain(
          'takes no head group more from fast: with one device more on the link the step would be 5500.00 ms, it is 4000.00 ms',
        );
        expect(binding.text).toContain(
          'compute: one device does all of it: a faster one shortens the step, a second one only if it saves more than the link takes',
        );
      });

      test('a second one that is too slow without a link is granularity', () => {
        const { devices } = alone(5);
        // 5 s for a group, and 2.5 s of link.
        expect(devices[1]).toMatchObject({ used: false, obstacle: 'granularity' });
        expect(devices[1]?.text).toContain('the step would be 7500.00 ms, it is 4000.00 ms');
      });
    },
  );

  test('stranded bytes: what neither weights nor the KV of all ranks can use', () => {
    const input = smallInput([
      device('small', { perHeadGroup: 1 }, { memoryBytes: 2032 + 64 * 30 + 63 }),
      device('large', { perHeadGroup: 1 }),
    ]);
    const { devices } = explained(input, 'equal');
    // The small one holds 30 tokens of 2 groups at 64 bytes, and 63 bytes are too few for another.
    expect(devices.map(({ strandedBytes }) => strandedBytes)).toEqual([63, 1e9 - 2032 - 64 * 30]);
  });
});

describe('ranks in lockstep', () => {
  const lockstep = (input: PlanInput): PlanInput => ({ ...input, objective: 'lockstep' });

  test('names the rank that the others wait for in each meeting', () => {
    const input = lockstep(
      smallInput([
        device('columns', { perHeadGroup: 1, perFfnColumn: 1 }),
        device('heads', { perHeadGroup: 3, perFfnColumn: 0.25 }),
      ]),
    );
    // Two head groups and 8 columns each: attention 2 s and 6 s, MLP 8 s and 2 s; together 14 s, own steps 10 s and 8 s.
    const { binding, devices } = explained(input, 'equal');
    expect(binding.text).toContain(
      'in attention heads (6000.00 ms), in the MLP columns (8000.00 ms)',
    );
    expect(devices[0]?.text).toContain('has the longest own step: 10000.00 ms');
    // Each waits for the other, in the meeting where that one is last.
    expect(devices.map(({ waitsFor }) => waitsFor)).toEqual(['heads', 'columns']);
    expect(devices[0]?.idleSeconds).toBe(4);
    // 4 columns less on the one that all wait for in the MLP: 6 s + 4 s.
    expect(devices[1]).toMatchObject({ obstacle: 'policy', idleSeconds: 6 });
    expect(devices[1]?.text).toContain('(the step would be 10000.00 ms)');
  });

  test('a unit that would lengthen another meeting is not said to be left by the policy', () => {
    const input = lockstep(
      smallInput([
        device('long', { constant: 4, perHeadGroup: 1, perFfnColumn: 1 }),
        device('mlp', { perHeadGroup: 0.25, perFfnColumn: 1.25 }),
      ]),
    );
    // Attention 6 s (long), MLP 10 s (mlp). 4 columns more on mlp leave its own step at 15.5 s, below 16 s, but the MLP takes 15 s.
    const { devices } = explained(input, 'equal');
    expect(devices[1]?.obstacle).toBe('granularity');
    expect(devices[1]?.text).toContain(
      'takes no 4 FFN columns more from long: the step would be 21000.00 ms, it is 16000.00 ms',
    );
  });
});

describe('what would change it', () => {
  const input = smallInput([
    device('a-0', { perHeadGroup: 1 }),
    device('a-1', { perHeadGroup: 1 }),
    device('b', { perHeadGroup: 4 }),
  ]);

  test('one of each kind less, more and exchanged, each with its own plan', () => {
    const { changes } = explained(input);
    expect(changes.map(({ change, removed, added }) => [change, removed, added])).toEqual([
      ['remove', 'a-0', null],
      ['remove', 'b', null],
      ['add', null, 'a-0'],
      ['add', null, 'b'],
      ['swap', 'a-0', 'b'],
      ['swap', 'b', 'a-0'],
    ]);
    // Two groups on each a: 2 s. Without one a: 4 s. Three a: 2 groups on one of them.
    expect(changes[0]).toMatchObject({ decodeSeconds: 4, decodeChange: 1 });
    expect(changes[0]?.text).toBe('without a-0: step 4000.00 ms, 100.0 % longer');
    expect(changes[1]).toMatchObject({ decodeSeconds: 2, decodeChange: 0 });
    expect(changes[5]).toMatchObject({ decodeSeconds: 2 });
  });

  test('the work is bounded for many kinds', () => {
    const many = Array.from({ length: 40 }, (_, index) =>
      device(`d-${index}`, { perHeadGroup: 1 + index }),
    );
    expect(explained(smallInput(many)).changes.length).toBe(24);
  });

  test('an infeasible plan: what it lacks, and the change that makes it fit', () => {
    const tight = smallInput([device('only', { perHeadGroup: 1 }, { memoryBytes: 5000 })]);
    const { binding, changes } = explained(tight);
    expect(binding.text).toContain('not feasible: kv');
    expect(binding.devices).toEqual(['only']);
    expect(changes).toEqual([
      expect.objectContaining({ change: 'add', feasible: true, decodeChange: null }),
    ]);
    expect(changes[0]?.text).toContain('where this plan does not fit');
  });
});
