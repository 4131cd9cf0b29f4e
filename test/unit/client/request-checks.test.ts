/** What the SDK refuses before it sends anything: the wire would make something else of it. */
import { describe, expect, it } from 'vitest';
import {
  type DeployOptions,
  type GenerateInput,
  type GenerateOptions,
  HelsClient,
} from '../../../client/sdk/index.ts';
import { generateRanges } from '../../../client/sdk/request-checks.ts';
import { checkTextRequest, type TextRequest } from '../../../controller/api/generation-request.ts';
import { limits } from '../../../controller/limits.ts';

/** Where nobody listens: what is not refused here is unreachable. */
const client = new HelsClient({ address: '127.0.0.1:1' });
const generate = (options: unknown, input: unknown = { prompt: 'Hels' }) =>
  client.generate(input as GenerateInput, options as GenerateOptions).next();
const deploy = (options: object) =>
  client.deploy({ modelPath: '/m', ...options } as DeployOptions).next();
const replan = (options: object) => client.replan(options).next();

const passes = { code: 'unreachable' };
const refused = (message: string) => {
  const field = message.slice(0, message.indexOf(':'));
  return { code: 'request-invalid', field, message: expect.stringContaining(message) };
};

const wholeText = 'is not a whole number from';

describe('options of generate', () => {
  it.each([
    [
      { maxTokens: 2 ** 32 + 5 },
      `maxTokens: 4294967301 ${wholeText} 1 to 2147483647; leave it out`,
    ],
    [{ maxTokens: 1.5 }, `maxTokens: 1.5 ${wholeText}`],
    [{ maxTokens: Number.NaN }, `maxTokens: NaN ${wholeText}`],
    [{ maxTokens: Infinity }, `maxTokens: Infinity ${wholeText}`],
    [{ maxTokens: 0 }, `maxTokens: 0 ${wholeText}`],
    [{ maxTokens: '5' }, `maxTokens: '5' ${wholeText}`],
    [{ seed: -1 }, `seed: -1 ${wholeText} 0 to 9007199254740991`],
    [{ seed: 1.5 }, `seed: 1.5 ${wholeText}`],
    [{ seed: null }, `seed: null ${wholeText}`],
    [{ topK: 2 ** 32 }, `topK: 4294967296 ${wholeText} -1 to`],
    [{ logprobs: 2 ** 32 }, `logprobs: 4294967296 ${wholeText} -1 to 20`],
    [{ priority: 2 ** 32 + 5 }, `priority: 4294967301 ${wholeText} -1000 to 1000`],
    [{ topP: 0 }, 'topP: 0 is not a 32-bit float above 0 and up to 1; leave it out for 1'],
    [{ temperature: Number.NaN }, 'temperature: NaN is not a number from 0 to 2'],
    [{ stop: 'x' }, "stop: 'x' is not a list of texts"],
    [{ stop: ['x', 5] }, 'stop[1]: 5 is not a text'],
    [{ stopTokenIds: [2 ** 32] }, 'stopTokenIds[0]: 4294967296 is not a token id'],
    [{ resume: { tokenIds: [1, 0.5], seed: 1 } }, 'resume.tokenIds[1]: 0.5 is not a token id'],
    [{ resume: { tokenIds: [], seed: -1 } }, `resume.seed: -1 ${wholeText} 0 to`],
    [{ resumeForMs: Number.NaN }, 'resumeForMs: NaN is not a number from 0 on'],
    [{ ignoreEndOfText: 'no' }, "ignoreEndOfText: 'no' is not true or false"],
    [{ model: 5 }, 'model: 5 is not a text'],
  ])('are not %o', async (options, message) => {
    await expect(generate(options)).rejects.toMatchObject(refused(message));
  });

  it('have the ranges of the controller', async () => {
    const request = {
      ...{ model: null, input: { type: 'text', text: '' }, temperature: 0, topP: 1, topK: 0 },
      ...{ logprobs: -1, seed: null, maxTokens: null, minTokens: 0, stop: [], stopTokenIds: [] },
      ...{ ignoreEndOfText: false, resume: null, cacheSalt: null, prefixCache: true, priority: 0 },
    } as TextRequest;
    const there = (options: object) => checkTextRequest({ ...request, ...options });
    const ranges = { ...generateRanges, temperature: [0, limits.temperatureMax] as const };
    for (const [name, [low, high]] of Object.entries(ranges)) {
      for (const value of [low, high]) {
        expect(() => there({ [name]: value }), `${name}: ${value}`).not.toThrow();
        await expect(generate({ [name]: value })).rejects.toMatchObject(passes);
      }
      for (const value of [low - 1, high + 1]) {
        expect(() => there({ [name]: value }), `${name}: ${value}`).toThrow();
        await expect(generate({ [name]: value })).rejects.toMatchObject({ field: name });
      }
    }
  });
});

describe('the input of generate', () => {
  const message = { role: 'user', content: 'Hels?' };
  it.each([
    [{}, 'input: undefined is not exactly one of prompt, promptTokenIds, messages'],
    [{ prompt: 'a', messages: [message] }, "input: [ 'prompt', 'messages' ] is not exactly one"],
    [{ prompt: 5 }, 'prompt: 5 is not a text'],
    [{ promptTokenIds: [1, 2 ** 32 + 5] }, 'promptTokenIds[1]: 4294967301 is not a token id'],
    [{ promptTokenIds: [1.5] }, 'promptTokenIds[0]: 1.5 is not a token id'],
    [{ messages: message }, 'messages: {'],
    [{ messages: ['Hels?'] }, "messages[0]: 'Hels?' is not a message with role and content"],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content: undefined is not a text'],
    [
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }] },
      "messages[0].content: [ { type: 'text', text: 'a' } ] is not a text",
    ],
  ])('is not %o', async (input, message) => {
    await expect(generate({}, input)).rejects.toMatchObject(refused(message));
  });

  it.each([{ prompt: '' }, { promptTokenIds: [0, 2 ** 32 - 1] }, { messages: [message] }])(
    'may be %o',
    async (input) => {
      await expect(generate({}, input)).rejects.toMatchObject(passes);
    },
  );
});

describe('plans that are asked for', () => {
  const rank = { workerId: 'a', headGroups: 8, ffnWeight: 1 };
  const wrong: [object, string][] = [
    [
      { workload: { sequences: 2 ** 32 + 8 } },
      `workload.sequences: 4294967304 ${wholeText} 1 to 1024`,
    ],
    [{ workload: { sequences: 0 } }, `workload.sequences: 0 ${wholeText}`],
    [{ workload: { contextTokens: 8.9 } }, `workload.contextTokens: 8.9 ${wholeText}`],
    [{ ranks: [{ ...rank, headGroups: 2 ** 32 + 8 }] }, 'ranks[0].headGroups: 4294967304 is not'],
    [{ ranks: [rank, { ...rank, headGroups: 8.7 }] }, 'ranks[1].headGroups: 8.7 is not'],
    [{ ranks: [{ ...rank, ffnWeight: Number.NaN }] }, 'ranks[0].ffnWeight: NaN is not a number'],
    [{ ranks: rank }, 'ranks: {'],
    [{ policy: 5 }, 'policy: 5 is not a text'],
  ];
  it.each(wrong)('are not for %o', async (options, message) => {
    await expect(deploy(options)).rejects.toMatchObject(refused(message));
    await expect(replan(options)).rejects.toMatchObject(refused(message));
  });

  it.each([
    [{ workersMin: 1025 }, `workersMin: 1025 ${wholeText} 1 to 1024`],
    [{ workersTimeoutMs: 0 }, `workersTimeoutMs: 0 ${wholeText} 1 to 4294967295`],
    [{ modelPath: 5 }, 'modelPath: 5 is not a text'],
    [{ autoReplan: 'off' }, "autoReplan: 'off' is not true or false"],
  ])('are not to be deployed with %o', async (options, message) => {
    await expect(deploy(options)).rejects.toMatchObject(refused(message));
  });

  it('may be for what is in range', async () => {
    const options = { workload: { sequences: 1024, allowRemoteKv: true }, ranks: [rank] };
    await expect(deploy({ ...options, workersMin: 1024 })).rejects.toMatchObject(passes);
    await expect(replan(options)).rejects.toMatchObject(passes);
    await expect(replan({})).rejects.toMatchObject(passes);
  });
});
