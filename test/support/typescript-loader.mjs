// Lets worker threads run TypeScript source on Node 20: vitest transforms modules in its own thread only. Given to the process by
// --import, which they inherit; the hooks thread, where modules are loaded, imports this file again for `load` alone.
import { readFile } from 'node:fs/promises';
import { register } from 'node:module';

const hooksMark = '?hooks';

export async function load(url, context, nextLoad) {
  if (!url.endsWith('.ts')) return nextLoad(url, context);
  const { default: typescript } = await import('typescript');
  const { outputText } = typescript.transpileModule(await readFile(new URL(url), 'utf8'), {
    compilerOptions: { module: typescript.ModuleKind.ESNext, target: typescript.ScriptTarget.ES2023 },
  });
  return { format: 'module', source: outputText, shortCircuit: true };
}

if (!import.meta.url.endsWith(hooksMark)) register(`${import.meta.url}${hooksMark}`);
