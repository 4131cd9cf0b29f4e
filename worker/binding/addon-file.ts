/** The addon: where it lies, and what must be settled before it is loaded. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { HelsError } from '../../proto/domain/errors.ts';

/** The addon lies in native/build, in the source tree and beside dist/ alike. */
export function addonFile(): string {
  const candidates = ['../../', '../../../'].map((root) =>
    fileURLToPath(new URL(`${root}native/build/Release/hels.node`, import.meta.url)),
  );
  const file = candidates.find((candidate) => existsSync(candidate));
  if (file === undefined) {
    throw new HelsError(
      'internal',
      `the native addon is not built (looked for ${candidates.join(' and ')}); run: make build`,
    );
  }
  return file;
}

/**
 * How often a thread of the engine looks for the others before it sleeps, about 15 us. libgomp reads it when the addon is loaded; its own
 * choice is milliseconds, in which waiting threads take the cores from the ones they wait for when the host has other work.
 */
const spinCount = '1000';

/** Loaded once. */
export function requireAddon(): unknown {
  const { OMP_WAIT_POLICY, GOMP_SPINCOUNT = spinCount } = process.env;
  if (OMP_WAIT_POLICY === undefined) Object.assign(process.env, { GOMP_SPINCOUNT });
  return createRequire(import.meta.url)(addonFile());
}
