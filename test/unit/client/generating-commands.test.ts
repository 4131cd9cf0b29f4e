/** helsctl chat and bench, called in this process, against a controller that keeps what it is asked. */
import { PassThrough } from 'node:stream';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addBenchCommand } from '../../../client/helsctl/commands/bench.ts';
import { addChatCommand } from '../../../client/helsctl/commands/chat.ts';
import { addDrainCommand } from '../../../client/helsctl/commands/drain.ts';
import type { Context } from '../../../client/helsctl/context.ts';
import { streamHandler } from '../../../controller/api/grpc/handlers.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerateEvent } from '../../../proto/gen/hels/v1/GenerateEvent.ts';
import type { GenerateRequest__Output } from '../../../proto/gen/hels/v1/GenerateRequest.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { serverCredentials } from '../../../proto/rpc/credentials.ts';

const asked: GenerateRequest__Output[] = [];
const Generate = streamHandler<GenerateRequest__Output, GenerateEvent>(async function* (request) {
  asked.push(request);
  const question = request.messages?.messages.at(-1)?.content ?? '';
  if (question === 'Too long') throw new HelsError('context-too-long', 'it does not fit');
  if (question === 'Gone') throw new HelsError('denied', 'no more of you');
  yield { delta: { text: 'a', tokenIds: [1], logprobs: [] } };
  yield { finished: { reason: 'length' } };
});
const server = new GrpcServer({ Generate } as unknown as HelsHandlers, {} as RegistryHandlers);
let address: string;
beforeAll(async () => {
  address = `127.0.0.1:${await server.listen('127.0.0.1:0', serverCredentials(null))}`;
});
afterAll(() => server.close(0));

/** What the command asks. */
async function askedBy(parameters: string[]): Promise<GenerateRequest__Output[]> {
  const output = new PassThrough().resume();
  const { signal } = new AbortController();
  const context = { stdout: output, stderr: output, signal } as unknown as Context;
  const program = new Command().option('--address <address>', '', address);
  addChatCommand(program, context);
  addBenchCommand(program, context);
  asked.length = 0;
  await program.parseAsync(parameters, { from: 'user' });
  return asked;
}

const prioritiesOf = async (parameters: string[]) =>
  (await askedBy(parameters)).map(({ priority }) => priority);

describe.each([
  { command: ['chat', '-m', 'Hi'], requests: 1 },
  { command: ['bench', '--requests', '2'], requests: 2 },
])('helsctl $command.0', ({ command, requests }) => {
  it('asks with the priority that is given, else 0', async () => {
    const given = await prioritiesOf([...command, '--priority', '-1000']);
    expect(given).toEqual(Array(requests).fill(-1000));
    expect(await prioritiesOf(command)).toEqual(Array(requests).fill(0));
  });

  it.each(['-1001', '1001', '0.5', 'high', ''])('refuses --priority %j', async (text) => {
    await expect(prioritiesOf([...command, '--priority', text])).rejects.toMatchObject({
      code: 'usage',
      message: `--priority: '${text}' is not a whole number from -1000 to 1000`,
    });
    expect(asked).toEqual([]);
  });
});

describe('a conversation', () => {
  /** Types text at a terminal; resolves to what the terminal has shown when the command ends. */
  async function converse(type: (stdin: PassThrough) => void): Promise<string> {
    const stdin = Object.assign(new PassThrough(), { isTTY: true });
    const shown: string[] = [];
    const stderr = new PassThrough().on('data', (chunk) => shown.push(String(chunk)));
    const stdout = new PassThrough().resume();
    const { signal } = new AbortController();
    const context = { stdin, stdout, stderr, signal } as unknown as Context;
    const program = new Command().option('--address <address>', '', address);
    addChatCommand(program, context);
    asked.length = 0;
    const ended = program.parseAsync(['chat', '--system', 'Be brief'], { from: 'user' });
    type(stdin);
    await ended;
    return shown.join('');
  }
  const textsOf = ({ messages }: GenerateRequest__Output) =>
    messages?.messages.map(({ content }) => content);

  it('asks lines that come at once one after the other, until the input ends', async () => {
    await converse((stdin) => stdin.end('One?\nTwo?\n'));
    expect(asked.map(textsOf)).toEqual([
      ['Be brief', 'One?'],
      ['Be brief', 'One?', 'a', 'Two?'],
    ]);
  });

  it('ends with an empty line', async () => {
    await converse((stdin) => stdin.write('One?\n\nTwo?\n'));
    expect(asked.map(textsOf)).toEqual([['Be brief', 'One?']]);
  });

  it('goes on after a question that is refused, without it', async () => {
    const shown = await converse((stdin) => stdin.end('Too long\nOne?\n'));
    expect(shown).toContain('error: it does not fit');
    expect(asked.map(textsOf).at(-1)).toEqual(['Be brief', 'One?']);
  });

  it('ends with an error that concerns more than the question', async () => {
    const ended = converse((stdin) => stdin.write('Gone\nOne?\n'));
    await expect(ended).rejects.toMatchObject({ code: 'denied' });
    expect(asked).toHaveLength(1);
  });

  it('is stopped by a signal while it waits for a question', async () => {
    const stopped = new AbortController();
    const stdin = Object.assign(new PassThrough(), { isTTY: true });
    const stderr = new PassThrough().resume();
    const context = { stdin, stdout: stderr, stderr, signal: stopped.signal };
    const program = new Command().option('--address <address>', '', address);
    addChatCommand(program, context as unknown as Context);
    const ended = program.parseAsync(['chat'], { from: 'user' });
    stopped.abort(new HelsError('cancelled', 'stopped by SIGTERM'));
    await expect(ended).rejects.toMatchObject({ message: 'stopped by SIGTERM' });
  });
});

it('helsctl drain asks for the name of a worker', async () => {
  const program = new Command().option('--address <address>', '', address);
  addDrainCommand(program, {} as Context);
  await expect(program.parseAsync(['drain', ''], { from: 'user' })).rejects.toMatchObject({
    code: 'usage',
    message: "WORKER: '' is not the name of a worker",
  });
});

describe('helsctl chat', () => {
  const command = ['chat', '-m', 'Hi'];

  it('asks for as many tokens at least as are given, else for none', async () => {
    const given = await askedBy([...command, '--min-tokens', '12']);
    expect(given.map(({ minTokens }) => minTokens)).toEqual([12]);
    expect((await askedBy(command)).map(({ minTokens }) => minTokens)).toEqual([0]);
  });

  it.each(['-1', '0.5', 'many'])('refuses --min-tokens %j', async (text) => {
    await expect(askedBy([...command, '--min-tokens', text])).rejects.toMatchObject({
      code: 'usage',
      message: `--min-tokens: '${text}' is not a whole number from 0 to 1048576`,
    });
  });
});
