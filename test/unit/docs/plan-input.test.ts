/** docs/reference/plan-input.md against what reads a plan input. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parsePlanInput } from '../../../controller/planner/parse-plan-input.ts';
import { plan } from '../../../controller/planner/plan.ts';

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');
const page = read('docs/reference/plan-input.md');
const [, exampleText = ''] = /```json\n([^`]*)```/.exec(page) ?? [];
const example = () => JSON.parse(exampleText) as Record<string, unknown>;

const rows = page
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .map((line) => line.split('|').map((cell) => cell.trim()));
const namesIn = (text: string) => [...text.matchAll(/`([\w.[\]]+)`/g)].map(([, name = '']) => name);

/** The fields in the schemas: `name: type`, alone in a line or within the braces of a short object. */
const [, schemas = ''] = /(const line = [\s\S]*?)\/\*\* The search/.exec(
  read('controller/planner/parse-plan-input.ts'),
) ?? [''];
const fields = new Set(
  [...schemas.matchAll(/(?<=[\s{])(\w+): (?!`)/g)]
    .map(([, name = '']) => name)
    .filter((name) => name !== 'error'),
);

/** Takes the field at a path like `devices[].id` out of the example; the first device stands for all. */
function without(path: string): Record<string, unknown> {
  const input = example();
  const keys = path.replaceAll('[]', '.0').split('.');
  const last = keys.pop() ?? '';
  let at = input;
  for (const key of keys) at = at[key] as Record<string, unknown>;
  expect(at).toHaveProperty(last);
  delete at[last];
  return input;
}

describe('docs/reference/plan-input.md', () => {
  it('has an example that gives a plan over both of its devices', () => {
    const { feasible, ranks } = plan(parsePlanInput(example()), () => 0);
    expect(feasible).toBe(true);
    expect(ranks.map(({ device }) => device)).toEqual(['fast', 'slow']);
  });

  const required = rows
    .filter(([, name = '', , otherwise]) => otherwise === 'required' && /\.|devices/.test(name))
    .flatMap(([, name = '']) => namesIn(name));

  it.each(required)('says rightly that %s is required', (path) => {
    const field = path.replaceAll('[]', '[0]');
    expect(() => parsePlanInput(without(path))).toThrow(`plan input: ${field} `);
  });

  it('has every field of the schema', () => {
    expect(fields).toContain('perTokenRing');
    expect(fields).toContain('hiddenSecondsPerToken');
    const told = namesIn(page).map((path) => path.split(/[.\]]/).at(-1));
    for (const field of fields) expect(told).toContain(field);
  });

  it('lists no field that does not exist', () => {
    const listed = rows.flatMap(([, name = '']) => namesIn(name));
    for (const path of listed) expect(fields).toContain(path.split(/[.\]]/).at(-1));
  });
});
