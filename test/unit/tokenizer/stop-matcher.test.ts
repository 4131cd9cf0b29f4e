import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopMatcher } from '../../../controller/tokenizer/stop-matcher.ts';
import { propertyRuns } from '../../support/property-runs.ts';

/** Character by character: the text before the stop string that ends first behind `passed` characters, the longest of those. */
function reference(text: string, stops: string[], passed = 0): { text: string; stopped: boolean } {
  for (let end = passed + 1; end <= text.length; end += 1) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    const longest = Math.max(0, ...ending.map((stop) => stop.length));
    if (longest > 0) return { text: text.slice(0, end - longest), stopped: true };
  }
  return { text, stopped: false };
}

/** No stop string may end in the first `passed` pieces. */
function run(pieces: string[], stops: string[], passed = 0): { text: string; stopped: boolean } {
  const matcher = new StopMatcher(stops);
  let text = '';
  for (const [index, piece] of pieces.entries()) {
    const match = matcher.push(piece, index >= passed);
    text += match.text;
    if (match.stopped) return { text, stopped: true };
  }
  return { text: text + matcher.flush(), stopped: false };
}

const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 });

const pieces = fc.array(letters, { maxLength: 12 });
const stops = fc.array(
  letters.filter((stop) => stop !== ''),
  { maxLength: 4 },
);

describe('stop strings', () => {
  it('cut a text in the same place however it arrives', () => {
    fc.assert(
      fc.property(pieces, stops, (texts, stopList) => {
        expect(run(texts, stopList)).toEqual(reference(texts.join(''), stopList));
      }),
      { numRuns: propertyRuns(2000) },
    );
  });

  it('may begin where none may end yet', () => {
    fc.assert(
      fc.property(pieces, stops, fc.nat({ max: 12 }), (texts, stopList, passed) => {
        const silent = texts.slice(0, passed).join('').length;
        const expected = reference(texts.join(''), stopList, silent);
        expect(run(texts, stopList, passed)).toEqual(expected);
      }),
      { numRuns: propertyRuns(2000) },
    );
    expect(run(['xab', 'y'], ['ab', 'xaby'], 1)).toEqual({ text: '', stopped: true });
    expect(run(['xab', 'z'], ['ab', 'xaby'], 1)).toEqual({ text: 'xabz', stopped: false });
  });

  it('hold back no more than could still become one', () => {
    const matcher = new StopMatcher(['</end>']);
    expect(matcher.push('text <')).toEqual({ text: 'text ', stopped: false });
    expect(matcher.push('/e')).toEqual({ text: '', stopped: false });
    expect(matcher.push('lse')).toEqual({ text: '</else', stopped: false });
    expect(matcher.push('</end>more')).toEqual({ text: '', stopped: true });
  });

  it('let everything through when there are none', () => {
    expect(run(['a', 'b'], [])).toEqual({ text: 'ab', stopped: false });
  });
});
