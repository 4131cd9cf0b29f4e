import { existsSync, readFileSync } from 'node:fs';

/** The version in the package.json of the tree or installation this module belongs to. */
export function version(): string {
  for (const relative of ['../../package.json', '../../../package.json']) {
    const file = new URL(relative, import.meta.url);
    if (existsSync(file)) {
      const manifest = JSON.parse(readFileSync(file, 'utf8')) as {
        name?: string;
        version?: string;
      };
      if (manifest.name === 'hels' && manifest.version) return manifest.version;
    }
  }
  return 'unknown';
}
