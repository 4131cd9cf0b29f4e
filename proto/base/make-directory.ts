import { mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

const isThere = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

/** With those above it. Throws what the system says. Node.js itself never ends below /proc, where nothing can be made although the parent is there. */
export function makeDirectory(path: string): void {
  if (isThere(path)) return;
  const parent = dirname(path);
  if (parent !== path) makeDirectory(parent);
  try {
    mkdirSync(path);
  } catch (error) {
    // Another process was quicker.
    if (!isThere(path)) throw error;
  }
}
