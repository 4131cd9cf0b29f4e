import { fileURLToPath } from 'node:url';

export function tokenizerFixture(name: 'byte-level' | 'byte-fallback'): string {
  return fileURLToPath(new URL(`../fixtures/tokenizers/${name}`, import.meta.url));
}
