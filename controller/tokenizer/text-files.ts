/** The text side of a Hugging Face model directory: tokenizer, chat template, ids that end a text. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';

type JsonObject = Readonly<Record<string, unknown>>;

export interface TextFiles {
  directory: string;
  /** tokenizer.json */
  tokenizer: JsonObject;
  /** tokenizer_config.json; empty when the model has none. */
  tokenizerConfig: JsonObject;
  generationConfig: JsonObject;
  config: JsonObject;
  /** null: the model has no chat template. */
  chatTemplate: ChatTemplateSource | null;
}

interface ChatTemplateSource {
  text: string;
  /** The file and field it came from, for messages. */
  origin: string;
}

export function modelInvalid(file: string, problem: string, cause?: unknown): HelsError {
  return new HelsError('model-invalid', `${file}: ${problem}`, { field: file, cause });
}

/** Throws model-invalid naming the file and field. */
export async function readTextFiles(directory: string): Promise<TextFiles> {
  const tokenizer = await readObject(
    join(directory, 'tokenizer.json'),
    limits.tokenizerFileBytesMax,
  );
  if (tokenizer === null) {
    throw modelInvalid(
      join(directory, 'tokenizer.json'),
      'is missing; a model is served with its tokenizer in the Hugging Face tokenizers format',
    );
  }
  const optional = async (name: string) =>
    (await readObject(join(directory, name), limits.modelTextFileBytesMax)) ?? {};
  const tokenizerConfig = await optional('tokenizer_config.json');
  return {
    directory,
    tokenizer,
    tokenizerConfig,
    generationConfig: await optional('generation_config.json'),
    config: await optional('config.json'),
    chatTemplate: await findChatTemplate(directory, tokenizerConfig),
  };
}

/** chat_template.jinja wins over tokenizer_config.json, as in the tools that write both. */
async function findChatTemplate(
  directory: string,
  tokenizerConfig: JsonObject,
): Promise<ChatTemplateSource | null> {
  const file = join(directory, 'chat_template.jinja');
  const text = await readLimited(file, limits.modelTextFileBytesMax);
  if (text !== null) return checkLength({ text, origin: file });
  const origin = `${join(directory, 'tokenizer_config.json')}: chat_template`;
  const value = tokenizerConfig['chat_template'];
  if (value === undefined || value === null) return null;
  if (typeof value === 'string') return checkLength({ text: value, origin });
  const named = Array.isArray(value) ? (value as unknown[]) : [];
  for (const entry of named) {
    const { name, template } = (entry ?? {}) as JsonObject;
    if (name === 'default' && typeof template === 'string') {
      return checkLength({ text: template, origin: `${origin}[default]` });
    }
  }
  throw modelInvalid(
    origin,
    'must be a text, or a list of {name, template} of which one has the name "default"',
  );
}

function checkLength(source: ChatTemplateSource): ChatTemplateSource {
  if (source.text.length > limits.chatTemplateCharactersMax) {
    throw modelInvalid(
      source.origin,
      `has ${source.text.length} characters, more than ${limits.chatTemplateCharactersMax}`,
    );
  }
  return source;
}

async function readObject(file: string, bytesMax: number): Promise<JsonObject | null> {
  const text = await readLimited(file, bytesMax);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw modelInvalid(file, `is not JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw modelInvalid(file, 'must hold a JSON object');
  }
  return value as JsonObject;
}

/** null when there is no such file. */
async function readLimited(file: string, bytesMax: number): Promise<string | null> {
  const info = await stat(file).catch(() => null);
  if (info === null) return null;
  if (!info.isFile()) throw modelInvalid(file, 'is not a file');
  if (info.size > bytesMax) {
    throw modelInvalid(file, `has ${info.size} bytes, more than the ${bytesMax} it may have`);
  }
  return readFile(file, 'utf8');
}
