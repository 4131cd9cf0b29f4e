import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { type ShortPromptFigures, shortPrompts } from './short-prompts.ts';

const page = readFileSync('docs/serving.md', 'utf8');
const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;

function row(longsPerSecond: number, figures: ShortPromptFigures): string {
  const { shortTtft, shortTpotP95, longs, longTtftP50 } = figures;
  const cells = [
    longsPerSecond === 0 ? 'none' : `${longs}, ${longsPerSecond} a second`,
    milliseconds(shortTtft.p50),
    milliseconds(shortTtft.p95),
    milliseconds(shortTpotP95),
    longs === 0 ? '' : `${longTtftP50.toFixed(1)} s`,
  ];
  return `| ${cells.join(' | ')} |`;
}

test('the page shows what long prompts cost short ones today', { timeout: 60_000 }, async () => {
  const rates = [0, 0.1, 0.2, 0.3];
  const figures = await Promise.all(rates.map(shortPrompts));
  const rows = rates.map((rate, index) => row(rate, figures[index] as ShortPromptFigures));
  process.stdout.write(`${rows.join('\n')}\n`);
  expect(page).toContain(rows.join('\n'));
  // Half a second holds 512-token steps enough: nobody waits for a whole long prompt.
  const [alone, ...beside] = figures.map(({ shortTtft }) => shortTtft.p95);
  for (const p95 of beside) expect(p95).toBeLessThan(5 * (alone ?? 0));
});
