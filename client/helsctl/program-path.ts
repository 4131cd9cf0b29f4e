import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { HelsError } from '../../proto/domain/errors.ts';

type Program = 'controller/main' | 'controller/tools/main' | 'worker/main' | 'worker/tools/main';

/**
 * The compiled entry of another part of Hels. helsctl reaches the daemons over the SDK and everything else by running a program: it
 * imports neither the controller nor the worker.
 */
export function programPath(name: Program): string {
  // Beside this module when compiled; in dist/ when this module runs from its source.
  for (const root of ['../../', '../../dist/']) {
    const path = fileURLToPath(new URL(`${root}${name}.js`, import.meta.url));
    if (existsSync(path)) return path;
  }
  throw new HelsError('usage', `${name}.js is missing; build Hels first with: make build`);
}
