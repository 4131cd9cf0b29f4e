import { join } from 'node:path';
import { modelInvalid, type TextFiles } from './text-files.ts';

const templateTokens = ['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const;

/** The special tokens a chat template may name, as texts. Older files write a token as {content: ...}. */
export function templateTokensOf(files: TextFiles): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of templateTokens) {
    const text = tokenText(files, name);
    if (text !== null) tokens[name] = text;
  }
  return tokens;
}

function tokenText(files: TextFiles, name: string): string | null {
  const value = files.tokenizerConfig[name];
  if (value === undefined || value === null) return null;
  const text = typeof value === 'object' ? (value as { content?: unknown }).content : value;
  if (typeof text === 'string') return text;
  throw modelInvalid(
    join(files.directory, 'tokenizer_config.json'),
    `${name} must be a text or an object with a text 'content'`,
  );
}

/**
 * Ids after which a text ends: all that generation_config.json, config.json and the tokenizer name. Instruction-tuned models keep
 * the end of a turn in one of them and the end of a document in another, and both end an answer.
 */
export function endOfTextIds(
  files: TextFiles,
  tokenId: (token: string) => number | undefined,
): number[] {
  const ids = [
    ...idsIn(files, 'generation_config.json', files.generationConfig),
    ...idsIn(files, 'config.json', files.config),
  ];
  const token = tokenText(files, 'eos_token');
  if (token !== null) {
    const id = tokenId(token);
    if (id === undefined) {
      throw modelInvalid(
        join(files.directory, 'tokenizer_config.json'),
        `eos_token '${token}' is not in the vocabulary of tokenizer.json`,
      );
    }
    ids.push(id);
  }
  return [...new Set(ids)];
}

function idsIn(files: TextFiles, file: string, object: Readonly<Record<string, unknown>>) {
  const value = object['eos_token_id'];
  if (value === undefined || value === null) return [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  return ids.map((id) => {
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 2 ** 31) return id;
    throw modelInvalid(
      join(files.directory, file),
      `eos_token_id: ${JSON.stringify(id)} is not a token id (a whole number from 0)`,
    );
  });
}
