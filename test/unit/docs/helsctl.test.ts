/** docs/reference/helsctl.md against the commands and options of helsctl. */
import { readdirSync, readFileSync } from 'node:fs';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import type { Context } from '../../../client/helsctl/context.ts';

const root = new URL('../../../', import.meta.url);
const read = (path: string) => readFileSync(new URL(path, root), 'utf8');
const page = read('docs/reference/helsctl.md');
const optionsIn = (text: string) => [...text.matchAll(/(?<![\w-])--[a-z][a-z-]*/g)].map(String);

/** Every module in commands/ adds its commands by functions called add...Command or add...Commands. */
async function buildCommands(): Promise<Command> {
  const program = new Command('helsctl');
  const files = readdirSync(new URL('client/helsctl/commands/', root));
  for (const file of files.filter((name) => name.endsWith('.ts'))) {
    const path = `../../../client/helsctl/commands/${file}`;
    const module: Record<string, unknown> = await import(path);
    for (const [name, add] of Object.entries(module)) {
      if (!/^add\w*Commands?$/.test(name) || typeof add !== 'function') continue;
      // Nothing is run, so no command looks at its context.
      add(program, {} as Context);
    }
  }
  return program;
}

interface Leaf {
  path: string;
  options: string[];
}

function leavesOf(command: Command, path: string): Leaf[] {
  if (command.commands.length > 0) {
    return command.commands.flatMap((child) => leavesOf(child, `${path} ${child.name()}`));
  }
  return [{ path, options: command.options.map(({ long }) => long ?? '') }];
}

const leaves = leavesOf(await buildCommands(), 'helsctl');
/** Those of main.ts, which every command has. */
const globalOptions = [...new Set(optionsIn(read('client/helsctl/main.ts')))];

/** The rows of the table about a command: plan has several. */
const rowsOf = (path: string) =>
  page.split('\n').filter((line) => new RegExp(`^\\| \`${path}[ \`]`).test(line));

describe('docs/reference/helsctl.md', () => {
  it('is held against all commands', () => {
    expect(leaves.map(({ path }) => path)).toContain('helsctl model quantize');
    expect(globalOptions).toContain('--tls-key');
    const documented = [
      ...page.matchAll(/^\| `(helsctl [a-z]+(?: (?:inspect|verify|quantize))?)/gm),
    ];
    expect(new Set(documented.map(([, path]) => path))).toEqual(
      new Set(leaves.map(({ path }) => path)),
    );
  });

  it.each(leaves)('has $path with its options', ({ path, options }) => {
    const rows = rowsOf(path);
    expect(rows).not.toEqual([]);
    const told = optionsIn(rows.join('\n'));
    for (const option of options) expect(told).toContain(option);
    // And no other option in the first cell, where the command line is.
    const commandLines = rows.map((row) => row.split(' | ')[0] ?? '').join('\n');
    for (const option of optionsIn(commandLines)) expect(options).toContain(option);
  });

  it.each(globalOptions)('has %s, which every command takes', (option) => {
    expect(optionsIn(page)).toContain(option);
  });

  it('names no option that does not exist', () => {
    const known = [...globalOptions, ...leaves.flatMap(({ options }) => options), '--help'];
    for (const option of optionsIn(page)) expect(known).toContain(option);
  });
});
