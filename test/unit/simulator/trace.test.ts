import { describe, expect, test } from 'vitest';
import { Random } from '../../../controller/simulator/random.ts';
import { generateTrace } from '../../../controller/simulator/trace/generate-trace.ts';
import { drawTokens, lengthModels } from '../../../controller/simulator/trace/lengths.ts';
import { parseTrace } from '../../../controller/simulator/trace/parse-trace.ts';

const header = 'TIMESTAMP,ContextTokens,GeneratedTokens';
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const quantileOf = (values: readonly number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * values.length)]!;

describe('trace files', () => {
  test('times are relative to the first request, whatever their form', () => {
    const azure = `${header}\r\n2023-11-16 18:15:46.5,374,44\r\n2023-11-16 18:16:47.75,396,109\r\n`;
    expect(parseTrace(azure)).toEqual([
      { atSeconds: 0, promptTokens: 374, outputTokens: 44 },
      { atSeconds: 61.25, promptTokens: 396, outputTokens: 109 },
    ]);
    const plain = 'atSeconds,promptTokens,outputTokens\n2,1,1\n2.5,3,4\n9,1,1';
    expect(parseTrace(plain, 2).map(({ atSeconds }) => atSeconds)).toEqual([0, 0.5]);
  });

  test.each([
    ['a,b,c\n1,2,3', "line 1: the header is 'a,b,c'"],
    [header, 'line 2: is missing'],
    [`${header}\n1,2`, 'line 2: has 2 values'],
    [`${header}\n1,2,3\n\nsoon,2,3`, "line 4: TIMESTAMP is 'soon'"],
    [`${header}\n,2,3`, "line 2: TIMESTAMP is ''"],
    [`${header}\n2023-99-16 18:15:46,2,3`, "line 2: TIMESTAMP is '2023-99-16 18:15:46'"],
    [`${header}\n1,0,3`, "line 2: ContextTokens is '0'; it must be a whole number from 1"],
    [`${header}\n1,2,1.5`, "line 2: GeneratedTokens is '1.5'"],
    [`${header}\n1,2,9999999999`, "line 2: GeneratedTokens is '9999999999'"],
    [`${header}\n5,2,3\n4,2,3`, 'line 3: TIMESTAMP is before the line above'],
  ])('%j is refused by line', (text, message) => {
    expect(() => parseTrace(text)).toThrow(message);
  });
});

describe('generated traces', () => {
  const fixed = { type: 'fixed', promptTokens: 3, outputTokens: 4 } as const;
  const gapsOf = (process: Parameters<typeof generateTrace>[0]['process']) => {
    const trace = generateTrace({ process, count: 20_000, lengths: fixed }, 3);
    return trace.map(({ atSeconds }, index) => atSeconds - (trace[index - 1]?.atSeconds ?? 0));
  };
  const variationOf = (gaps: readonly number[]) => {
    const middle = mean(gaps);
    return Math.sqrt(mean(gaps.map((gap) => (gap - middle) ** 2))) / middle;
  };

  test('Poisson gaps have the mean of the rate and a variation of 1', () => {
    const gaps = gapsOf({ type: 'poisson', ratePerSecond: 4 });
    expect(mean(gaps)).toBeCloseTo(0.25, 2);
    expect(variationOf(gaps)).toBeCloseTo(1, 1);
  });

  test.each([0.5, 2])(
    'Gamma gaps of variation %d have it, and the mean of the rate',
    (variation) => {
      const gaps = gapsOf({ type: 'gamma', ratePerSecond: 4, variation });
      expect(Math.abs(mean(gaps) * 4 - 1)).toBeLessThan(0.04);
      expect(Math.abs(variationOf(gaps) / variation - 1)).toBeLessThan(0.05);
    },
  );

  test('one seed, one trace; another rate keeps the lengths', () => {
    const at = (ratePerSecond: number, seed: number) =>
      generateTrace(
        {
          process: { type: 'poisson', ratePerSecond },
          count: 100,
          lengths: { type: 'model', name: 'sharegpt' },
        },
        seed,
      );
    expect(at(2, 5)).toEqual(at(2, 5));
    expect(at(2, 6)).not.toEqual(at(2, 5));
    expect(at(9, 5).map(({ promptTokens }) => promptTokens)).toEqual(
      at(2, 5).map(({ promptTokens }) => promptTokens),
    );
  });

  test('lengths have the published means, medians and 90th percentiles', () => {
    const draw = (model: Parameters<typeof drawTokens>[1]) => {
      const random = new Random(11);
      return Array.from({ length: 50_000 }, () => drawTokens(random, model));
    };
    const { sharegpt, openchat } = lengthModels;
    expect(Math.abs(mean(draw(sharegpt.prompt)) / 161.31 - 1)).toBeLessThan(0.03);
    expect(Math.abs(mean(draw(sharegpt.output)) / 337.99 - 1)).toBeLessThan(0.03);
    const prompts = draw(openchat.prompt);
    expect(Math.abs(quantileOf(prompts, 0.5) / 1730 - 1)).toBeLessThan(0.03);
    expect(Math.abs(quantileOf(prompts, 0.9) / 5696 - 1)).toBeLessThan(0.03);
    const outputs = draw(openchat.output);
    expect(Math.abs(quantileOf(outputs, 0.5) / 415 - 1)).toBeLessThan(0.03);
    expect(Math.abs(quantileOf(outputs, 0.9) / 834 - 1)).toBeLessThan(0.03);
  });
});
