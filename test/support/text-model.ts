import { fileURLToPath } from 'node:url';
import { TextModel } from '../../controller/tokenizer/text-model.ts';
import type { TextThreadOptions } from '../../controller/tokenizer/text-thread.ts';

export function tokenizerFixture(name: 'byte-level' | 'byte-fallback'): string {
  return fileURLToPath(new URL(`../fixtures/tokenizers/${name}`, import.meta.url));
}

/** A TextModel whose thread runs from the TypeScript source. */
export function loadTextModel(
  directory: string,
  options: Partial<TextThreadOptions> = {},
): Promise<TextModel> {
  const loader = new URL('./typescript-loader.mjs', import.meta.url).href;
  return TextModel.load(directory, {
    execArgv: ['--import', loader, '--no-warnings'],
    ...options,
  });
}
