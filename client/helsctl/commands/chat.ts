import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import { toHelsError } from '../../../proto/domain/errors.ts';
import {
  type ChatMessage,
  type ErrorCode,
  type GenerateOptions,
  type HelsClient,
  HelsError,
} from '../../sdk/index.ts';
import { type Context, outputOf, withClient } from '../context.ts';
import { formatMilliseconds, type Output, reportError } from '../output.ts';
import { parseNumber, parsePriority, parseWholeNumber } from '../values.ts';

interface ChatCommandOptions {
  message?: string;
  system?: string;
  model?: string;
  maxTokens?: string;
  minTokens: string;
  temperature: string;
  seed?: string;
  priority: string;
}

function generateOptions(options: ChatCommandOptions): GenerateOptions {
  return {
    temperature: parseNumber(options.temperature, '--temperature', 0, 2),
    minTokens: parseWholeNumber(options.minTokens, '--min-tokens', 0, 2 ** 20),
    priority: parsePriority(options.priority),
    ...(options.model === undefined ? {} : { model: options.model }),
    ...(options.maxTokens === undefined
      ? {}
      : { maxTokens: parseWholeNumber(options.maxTokens, '--max-tokens', 1, 2 ** 20) }),
    ...(options.seed === undefined
      ? {}
      : { seed: parseWholeNumber(options.seed, '--seed', 0, Number.MAX_SAFE_INTEGER) }),
  };
}

/** One turn: streams the answer to stdout (or collects it for --json) and returns it. */
async function answer(
  client: HelsClient,
  messages: ChatMessage[],
  options: GenerateOptions,
  output: Output,
  signal: AbortSignal,
): Promise<string> {
  let text = '';
  let seed = 0;
  for await (const event of client.generate({ messages }, options, { signal })) {
    if (event.type === 'started') seed = event.seed;
    if (event.type === 'delta') {
      text += event.text;
      if (!output.json) output.write(event.text);
    }
    if (event.type === 'finished') {
      output.result({ text, seed, ...event }, () => '');
      output.note(
        `${event.completionTokens} tokens, TTFT ${formatMilliseconds(event.timeToFirstTokenSeconds)}, ` +
          `TPOT ${formatMilliseconds(event.timePerOutputTokenSeconds)}`,
      );
    }
  }
  return text;
}

/** What is wrong with one question, or at one moment: the conversation can go on without its answer. */
const passing: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'request-invalid',
  'context-too-long',
  'overloaded',
  'not-ready',
  'numeric-range',
]);

/** Asks line after line, those that came while an answer ran too, until an empty one, the end of the input or Ctrl-C. */
async function converse(
  client: HelsClient,
  system: readonly ChatMessage[],
  options: GenerateOptions,
  output: Output,
  context: Context,
): Promise<void> {
  if (!context.stdin.isTTY) {
    throw new HelsError('usage', '--message is needed when the input is not a terminal');
  }
  context.signal.throwIfAborted();
  let messages = system;
  // The terminal is in raw mode: Ctrl-C is a key, and no signal.
  const interrupt = new AbortController();
  const signal = AbortSignal.any([context.signal, interrupt.signal]);
  let isOpen = true;
  const terminal = createInterface({
    ...{ input: context.stdin, output: context.stderr, prompt: '> ' },
  })
    .once('SIGINT', () => interrupt.abort(new HelsError('cancelled', 'stopped by Ctrl-C')))
    .once('close', () => {
      isOpen = false;
    });
  signal.addEventListener('abort', () => terminal.close(), { once: true });
  try {
    const lines = terminal[Symbol.asyncIterator]();
    terminal.prompt();
    for await (const content of lines) {
      if (content.trim() === '') return;
      const asked: ChatMessage[] = [...messages, { role: 'user', content }];
      try {
        const text = await answer(client, asked, options, output, signal);
        messages = [...asked, { role: 'assistant', content: text }];
      } catch (error) {
        signal.throwIfAborted();
        const failure = toHelsError(error);
        if (!passing.has(failure.code)) throw failure;
        reportError(failure, output.json, context.stderr);
      }
      if (isOpen) terminal.prompt();
    }
  } finally {
    terminal.close();
  }
  signal.throwIfAborted();
  // The prompt has no end of line.
  output.note('');
}

export function addChatCommand(program: Command, context: Context): void {
  program
    .command('chat')
    .description('talk to the served model; an empty line, or Ctrl-D, ends the conversation')
    .option('-m, --message <text>', 'ask once and exit')
    .option('--system <text>', 'system message')
    .option('--model <id>', 'model id (default: the one being served)')
    .option('--max-tokens <n>', 'longest answer')
    .option('--min-tokens <n>', 'shortest answer: the model cannot end it before', '0')
    .option('--temperature <t>', '0 to 2; 0 = always the most likely token', '0')
    .option('--seed <n>', 'makes a sampled answer repeatable')
    .option('--priority <n>', 'lower goes first: -1000 to 1000', '0')
    .action(async (options: ChatCommandOptions, command: Command) => {
      const output = outputOf(context, command);
      const parameters = generateOptions(options);
      const messages: ChatMessage[] =
        options.system === undefined ? [] : [{ role: 'system', content: options.system }];
      await withClient(command, async (client) => {
        if (options.message === undefined) {
          await converse(client, messages, parameters, output, context);
          return;
        }
        messages.push({ role: 'user', content: options.message });
        await answer(client, messages, parameters, output, context.signal);
      });
    });
}
