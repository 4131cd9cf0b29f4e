import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopMatcher } from '../../../controller/tokenizer/stop-matcher.ts';
import { propertyRuns } from '../../support/property-runs.ts';

/** Character by character: the text before the stop string that ends first, the longest of those. */
function reference(text: string, stops: string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end += 1) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    const longest = Math.max(0, ...ending.map((stop) => stop.length));
    if (longest > 0) return { text: text.slice(0, end - longest), stopped: true };
  }
  return { text, stopped: false };
}

function run(pieces: string[], stops: string[]): { text: string; stopped: boolean } {
  const matcher = new StopMatcher(stops);
  let text = '';
  for (const piece of pieces) {
    const match = matcher.push(piece);
    text += match.text;
    if (match.stopped) return { text, stopped: true };
  }
  return { text: text + matcher.flush(), stopped: false };
}

const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 });

describe('stop strings', () => {
  it('cut a text in the same place however it arrives', () => {
    const stops = fc.array(
      letters.filter((stop) => stop !== ''),
      { maxLength: 4 },
    );
    fc.assert(
      fc.property(fc.array(letters, { maxLength: 12 }), stops, (pieces, stopList) => {
        expect(run(pieces, stopList)).toEqual(reference(pieces.join(''), stopList));
      }),
      { numRuns: propertyRuns(2000) },
    );
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
