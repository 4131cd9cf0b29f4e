import { existsSync } from 'node:fs';

/** The folder that holds `hels/v1/*.proto`, from the source tree or from `dist/` (which has no .proto files of its own). */
export function protoDirectory(moduleDirectory: URL): URL {
  for (const relative of ['../', '../../../proto/']) {
    const candidate = new URL(relative, moduleDirectory);
    if (existsSync(new URL('hels/v1/common.proto', candidate))) return candidate;
  }
  throw new Error(`hels/v1/common.proto not found near ${moduleDirectory.href}; reinstall Hels`);
}
