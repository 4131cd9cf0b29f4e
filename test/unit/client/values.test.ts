import { describe, expect, it } from 'vitest';
import { parseRanks } from '../../../client/helsctl/parse-ranks.ts';
import { parseNumber, parseWholeNumber } from '../../../client/helsctl/values.ts';

describe('command line values', () => {
  it('accepts whole numbers within the range and names option, value and range otherwise', () => {
    expect(parseWholeNumber('64', '--workers', 1, 64)).toBe(64);
    for (const bad of ['', ' ', '0', '65', '1.5', 'many', 'NaN']) {
      expect(() => parseWholeNumber(bad, '--workers', 1, 64)).toThrow(
        `--workers: '${bad}' is not a whole number from 1 to 64`,
      );
    }
  });

  it('accepts fractions where they make sense', () => {
    expect(parseNumber('0.7', '--temperature', 0, 100)).toBe(0.7);
    expect(() => parseNumber('-1', '--temperature', 0, 100)).toThrow("--temperature: '-1'");
  });

  it('reads a split by hand and shows an example when it cannot', () => {
    expect(parseRanks('a=3/2,b=0/1.5')).toEqual([
      { workerId: 'a', headGroups: 3, ffnWeight: 2 },
      { workerId: 'b', headGroups: 0, ffnWeight: 1.5 },
    ]);
    expect(() => parseRanks('a=3')).toThrow("--ranks: 'a=3' is not WORKER=HEADGROUPS/FFNWEIGHT");
  });
});
