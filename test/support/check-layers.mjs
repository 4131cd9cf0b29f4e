// Runs the import rules, and fails when fewer modules were cruised than the tree has: a parser that silently sees nothing would
// otherwise report that nothing is wrong.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

const roots = ['proto', 'controller', 'worker', 'client', 'test'];
const sources = roots
  .flatMap((root) => readdirSync(root, { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'));

let output;
try {
  output = execFileSync('npx', ['depcruise', '--config', '.dependency-cruiser.cjs', '--output-type', 'json', ...roots], {
    encoding: 'utf8',
    maxBuffer: 256 * 2 ** 20,
  });
} catch (error) {
  output = error.stdout;
  if (!output) throw error;
}
const { summary, modules } = JSON.parse(output);
const cruised = modules.filter((module) => roots.some((root) => module.source.startsWith(`${root}/`)));
for (const { rule, from, to } of summary.violations) {
  process.stderr.write(`${rule.severity} ${rule.name}: ${from} -> ${to}\n`);
}
process.stdout.write(
  `${cruised.length} modules of ${sources.length} files cruised, ${summary.violations.length} violations\n`,
);
if (cruised.length < sources.length) {
  process.stderr.write('fewer modules were cruised than the tree has: is the TypeScript version supported?\n');
  process.exitCode = 1;
}
if (summary.violations.length > 0) process.exitCode = 1;
