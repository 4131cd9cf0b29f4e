/** docs/source-tables.md says what its commands print: each indented `node ...` line, followed by its table. Needs the built tools. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

const page = readFileSync('docs/source-tables.md', 'utf8');
const commands = [...page.matchAll(/^ {4}node (test\/bench\/\S+)(.*)\n\n((?:\|.*\n)+)/gm)].map(
  ([, script = '', options = '', table = '']) => ({ script, options: options.trim(), table }),
);

const firstRows = (table: string) =>
  new Map(
    table
      .trim()
      .split('\n')
      .map((row) => [row.split('|')[1]?.trim() ?? '', row]),
  );

test('the page has its three commands', () => {
  expect(commands.map(({ options }) => options)).toEqual([
    '',
    '--variation=4 4.5',
    '--a100=a100-40 --sequences=128',
  ]);
});

describe.each(commands)('$script $options', ({ script, options, table }) => {
  test('prints the table of the page', { timeout: 120_000 }, () => {
    const parameters = [script, ...options.split(' ').filter((option) => option !== '')];
    const printed = execFileSync(process.execPath, parameters, { encoding: 'utf8' });
    expect(printed).toContain(table.trim());
  });
});

test('the comparison at the top has the medians and 95th percentiles of the tables', () => {
  const pairs = (policy: string) =>
    commands.map(({ table }) => firstRows(table).get(policy)?.split(' | ').slice(1, 3).join(', '));
  expect(page).toContain(`| vLLM (\`equal\`) | 0.54 | 0.41 | ${pairs('equal').join(' | ')} |`);
  expect(page).toContain(
    `| HexGen (\`compute\`) | 0.72 | 0.58 | ${pairs('compute').join(' | ')} |`,
  );
});
