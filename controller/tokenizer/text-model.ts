/** Text on one side, token ids on the other, for one model directory. */
import { join, resolve } from 'node:path';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import { HelsError } from '../../proto/domain/errors.ts';
import { IncrementalDetokenizer } from './incremental-detokenizer.ts';
import { checkPromptCharacters } from './prompt-characters.ts';
import { endOfTextIds, templateTokensOf } from './special-tokens.ts';
import { modelInvalid, readTextFiles, type TextFiles } from './text-files.ts';
import type { ChatMessage, TextAnswer, TextJob } from './text-jobs.ts';
import { TextThread, type TextThreadOptions, textThreadDefaults } from './text-thread.ts';
import { type TokenAlphabet, tokenAlphabetOf, tokenBytes } from './token-bytes.ts';

/** Of callers that never leave. */
const stays = new AbortController().signal;

/**
 * Encoding and chat templates run on a thread of their own (see TextThread); decoding, microseconds per token, stays on the caller's.
 * Own a TextModel and close it.
 */
export class TextModel {
  /** Generation ends after one of these. */
  readonly endOfTextIds: readonly number[];
  /** Ids a prompt may hold are below this: rows of the embedding, or the vocabulary when config.json does not say. */
  readonly vocabularySize: number;
  /** Tokens of the tokenizer that no prompt may hold: their ids are not below `vocabularySize`. */
  readonly strayTokenIds: readonly number[];
  readonly #tokenizer: Tokenizer;
  readonly #specialIds: ReadonlySet<number>;
  readonly #alphabet: TokenAlphabet;
  readonly #hasChatTemplate: boolean;
  readonly #thread: TextThread;

  private constructor(files: TextFiles, tokenizer: Tokenizer, thread: TextThread) {
    const added = [...tokenizer.get_added_tokens_decoder()];
    this.#tokenizer = tokenizer;
    this.#specialIds = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
    this.#alphabet = tokenAlphabetOf(files.tokenizer);
    this.#hasChatTemplate = files.chatTemplate !== null;
    this.#thread = thread;
    this.endOfTextIds = endOfTextIds(files, (token) => tokenizer.token_to_id(token));
    const rows = files.config['vocab_size'];
    const vocabulary = tokenizer.get_vocab(true);
    this.vocabularySize = typeof rows === 'number' ? rows : vocabulary.size;
    this.strayTokenIds = [...vocabulary.values()]
      .filter((id) => id >= this.vocabularySize)
      .toSorted((one, other) => one - other);
  }

  /** Throws model-invalid naming the file and field that is missing or wrong. */
  static async load(
    directory: string,
    threadOptions: Partial<TextThreadOptions> = {},
  ): Promise<TextModel> {
    const files = await readTextFiles(resolve(directory));
    const tokenizer = buildTokenizer(files);
    checkTemplate(files);
    const thread = new TextThread(
      {
        tokenizer: files.tokenizer,
        tokenizerConfig: files.tokenizerConfig,
        chatTemplate: files.chatTemplate?.text ?? null,
        templateTokens: templateTokensOf(files),
      },
      { ...textThreadDefaults, ...threadOptions },
    );
    const model = new TextModel(files, tokenizer, thread);
    // The first job starts the thread: a served model has it running before the first request.
    await model.encode('', false).catch(async (error: unknown) => {
      await thread.close();
      const reason = error instanceof Error ? error.message : String(error);
      throw modelInvalid(join(files.directory, 'tokenizer.json'), reason, error);
    });
    return model;
  }

  /** addSpecialTokens: what tokenizer.json's post-processor adds, often a begin-of-text token. A text that waits when `signal` aborts is left. */
  encode(text: string, addSpecialTokens: boolean, signal: AbortSignal = stays): Promise<number[]> {
    return this.#encode(text, addSpecialTokens, 'prompt', signal);
  }

  /** The tokens of a chat's prompt: its template writes the special ones. */
  async encodeChat(
    messages: readonly ChatMessage[],
    signal: AbortSignal = stays,
  ): Promise<number[]> {
    return this.#encode(await this.renderChat(messages, signal), false, 'messages', signal);
  }

  async #encode(
    text: string,
    addSpecialTokens: boolean,
    field: 'prompt' | 'messages',
    signal: AbortSignal,
  ): Promise<number[]> {
    checkPromptCharacters(field, text.length);
    const answer = await this.#run({ type: 'encode', text, addSpecialTokens }, field, signal);
    if (answer.type === 'tokens') return answer.tokenIds;
    throw new HelsError('request-invalid', `${field}: cannot be tokenized: ${reasonOf(answer)}`, {
      field,
    });
  }

  /** The prompt of a chat, without the special tokens that `encode` can add: the template writes them. */
  async renderChat(messages: readonly ChatMessage[], signal: AbortSignal = stays): Promise<string> {
    if (!this.#hasChatTemplate) {
      throw new HelsError(
        'request-invalid',
        `messages: the model has no chat template; use /v1/completions with a prompt, or add chat_template.jinja to the model directory and deploy it again`,
        { field: 'messages' },
      );
    }
    const answer = await this.#run({ type: 'render', messages }, 'messages', signal);
    if (answer.type === 'text') return answer.text;
    throw new HelsError(
      'request-invalid',
      `messages: the model's chat template refuses them: ${reasonOf(answer)}`,
      { field: 'messages' },
    );
  }

  /**
   * The text of one answer as its tokens come; special tokens have none. With the tokens that it continues, its first word keeps the
   * space before it; without, it is a text of its own and begins with none.
   */
  detokenizer(promptTokenIds: readonly number[] = []): IncrementalDetokenizer {
    return new IncrementalDetokenizer(
      (tokenIds) => this.decode(tokenIds),
      (tokenId) => this.tokenBytes(tokenId),
      promptTokenIds,
      (tokenId) => this.#hasText(tokenId),
    );
  }

  /** Text of the tokens, special ones and ids without a token left out. */
  decode(tokenIds: readonly number[]): string {
    const visible = tokenIds.filter((id) => this.#hasText(id));
    // Clean-up rewrites what was already given out (" ." becomes "."), so a streamed text cannot have it.
    const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
    return visible.length === 0 ? '' : this.#tokenizer.decode(visible, options);
  }

  /** Bytes of one token as the vocabulary writes it; special tokens by their name, none for an id without a token. */
  tokenBytes(tokenId: number): Uint8Array {
    const token = this.#tokenizer.id_to_token(tokenId) ?? '';
    return tokenBytes(token, this.#specialIds.has(tokenId) ? 'plain' : this.#alphabet);
  }

  /** As the vocabulary writes it. */
  nameOf(tokenId: number): string {
    return this.#tokenizer.id_to_token(tokenId) ?? '';
  }

  #hasText(tokenId: number): boolean {
    return !this.#specialIds.has(tokenId) && this.#tokenizer.id_to_token(tokenId) !== undefined;
  }

  close(): Promise<void> {
    return this.#thread.close();
  }

  async #run(job: TextJob, field: string, signal: AbortSignal): Promise<TextAnswer> {
    try {
      return await this.#thread.run(job, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      if (!(error instanceof HelsError) || error.code !== 'deadline-exceeded') throw error;
      throw new HelsError('request-invalid', `${field}: ${error.message}; send less text`, {
        field,
        cause: error,
      });
    }
  }
}

function reasonOf(answer: TextAnswer): string {
  return answer.type === 'failed' ? answer.message : `unexpected answer ${answer.type}`;
}

function buildTokenizer(files: TextFiles): Tokenizer {
  const file = join(files.directory, 'tokenizer.json');
  for (const field of ['model', 'added_tokens']) {
    const value = files.tokenizer[field];
    if (typeof value !== 'object' || value === null) {
      throw modelInvalid(file, `${field} is missing; the file must be written by tokenizers`);
    }
  }
  try {
    return new Tokenizer(files.tokenizer, files.tokenizerConfig);
  } catch (error) {
    throw modelInvalid(file, error instanceof Error ? error.message : String(error), error);
  }
}

function checkTemplate(files: TextFiles): void {
  if (files.chatTemplate === null) return;
  try {
    new Template(files.chatTemplate.text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw modelInvalid(files.chatTemplate.origin, `is not a template: ${reason}`, error);
  }
}
