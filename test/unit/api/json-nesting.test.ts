import fc from 'fast-check';
import { expect, it } from 'vitest';
import { nestsBeyond } from '../../../controller/api/http/json-nesting.ts';

const levelsOf = (value: unknown): number =>
  typeof value === 'object' && value !== null
    ? 1 + Math.max(0, ...Object.values(value).map(levelsOf))
    : 0;

it('finds the levels that the parsed value has, whatever its texts hold', () => {
  const unit = fc.constantFrom('[', ']', '{', '}', '"', '\\', 'é', '😀', ':', ',');
  const text = fc.string({ unit, maxLength: 6 });
  const value = fc.jsonValue({ maxDepth: 6, stringUnit: unit });
  fc.assert(
    fc.property(fc.array(value), text, fc.nat({ max: 2 }), (list, key, space) => {
      const whole = { [key]: list };
      const bytes = Buffer.from(JSON.stringify(whole, null, space));
      const levels = levelsOf(whole);
      expect([nestsBeyond(levels - 1, bytes), nestsBeyond(levels, bytes)]).toEqual([true, false]);
    }),
  );
});

it('looks at nothing behind the level that is too many', () => {
  let looks = 0;
  const text = new Proxy(Buffer.from(`${'['.repeat(200)}${' '.repeat(1000)}`), {
    get: (bytes, key) => {
      if (key !== 'length') looks += 1;
      return Reflect.get(bytes, key, bytes);
    },
  });
  expect(nestsBeyond(100, text)).toBe(true);
  expect(looks).toBe(101);
});
