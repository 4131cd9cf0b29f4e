import { afterEach, describe, expect, it, vi } from 'vitest';
import { type GenerateEvent, type GenerateInput, HelsClient } from '../../../client/sdk/index.ts';
import { streamHandler } from '../../../controller/api/grpc/handlers.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { sleep } from '../../../proto/base/clock.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerateEvent as GenerateEventMessage } from '../../../proto/gen/hels/v1/GenerateEvent.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { serverCredentials } from '../../../proto/rpc/credentials.ts';
import { collect } from '../../support/daemons.ts';
import { aborted, eventually } from '../../support/deadline.ts';
import {
  clientOf,
  ends,
  FakeController,
  input,
  pair,
  sampled,
  slow,
  text,
} from './fake-controllers.ts';

vi.mock('../../../proto/base/clock.ts', { spy: true });
afterEach(() => {
  vi.mocked(sleep).mockReset();
});

/** Calls `happens` after so many deltas. */
async function* watched(
  events: AsyncIterable<GenerateEvent>,
  deltas: number,
  happens: () => void,
): AsyncGenerator<GenerateEvent> {
  let seen = 0;
  for await (const event of events) {
    yield event;
    if (event.type === 'delta') seen += 1;
    if (event.type === (deltas === 0 ? 'started' : 'delta') && seen === deltas) happens();
  }
}

describe('an answer whose controller dies', () => {
  const inputs: [string, GenerateInput][] = [
    ['tokens', input],
    ['text', { prompt: 'Hels' }],
    ['a chat', { messages: [{ role: 'user', content: 'Hels?' }] }],
  ];
  it.each(inputs)('goes on at the next one, to the same end: %s', async (_, given) => {
    const { leader, standby } = await pair();
    const client = clientOf([leader, standby]);
    // Byte tokens: nearly every break is inside a character, and the stop string holds text back.
    for (const options of [sampled, { ...sampled, temperature: 0, stop: ['\uFFFD\uFFFDz'] }]) {
      const whole = await collect(client.generate(given, options));
      for (const deltas of [0, 1, 20]) {
        await standby.die();
        await leader.die();
        await leader.serve(slow);
        const takeover = async () => {
          await leader.die();
          await standby.serve(slow);
        };
        const answer = client.generate(given, options);
        const broken = await collect(watched(answer, deltas, () => void takeover()));
        expect(broken).toEqual({ ...whole, finished: broken.finished });
        expect(broken.finished).toMatchObject({ reason: 'length', completionTokens: 60 });
        expect(standby.asked.at(-1)?.resume?.seed).toBe(77);
      }
    }
  });

  it('that resumed one which the caller had begins where that ended', async () => {
    const { leader, standby } = await pair();
    const client = clientOf([leader, standby]);
    const whole = await collect(client.generate(input, sampled));
    const resume = { tokenIds: whole.tokenIds.slice(0, 9), seed: 77 };
    const takeover = () => void leader.die().then(() => standby.serve());
    const answer = client.generate(input, { ...sampled, resume });
    const rest = await collect(watched(answer, 5, takeover));
    expect(rest.tokenIds).toEqual(whole.tokenIds.slice(9));
  });

  it('begins only once, and ends a stop string that the break divides', async () => {
    const script = [...(await text.encode('answer ##', false)), 200];
    const { leader, standby } = await pair({ ...slow, script });
    const client = clientOf([leader, standby]);
    const options = { ...sampled, stop: ['##'] };
    const cut = script.length - 2;
    const takeover = async () => {
      await leader.die();
      await standby.serve({ script: script.slice(cut) });
    };
    const types: string[] = [];
    async function* noted(events: AsyncIterable<GenerateEvent>) {
      for await (const event of events) {
        types.push(event.type);
        yield event;
      }
    }
    const events = noted(client.generate(input, options));
    const answer = await collect(watched(events, cut, () => void takeover()));
    expect(answer.text).toBe('answer ');
    expect(answer.finished).toMatchObject({ reason: 'stop' });
    expect(types.filter((type) => type !== 'delta')).toEqual(['started', 'finished']);
  });
});

describe('an answer that a controller ends', () => {
  it('goes on when it is back, time and again, with its priority', async () => {
    const options = { ...sampled, maxTokens: 22, priority: -3 };
    const whole = await collect(
      clientOf([await new FakeController().serve()]).generate(input, options),
    );
    const failure = new HelsError('draining', 'stopping');
    const controller = await new FakeController().serve({ failAfterTokens: 5, failure });
    const answer = clientOf([controller]).generate(input, options);
    expect((await collect(answer)).tokenIds).toEqual(whole.tokenIds);
    expect(controller.asked.map(({ resume }) => resume?.tokenIds.length)).toEqual([
      undefined,
      5,
      10,
      15,
      20,
    ]);
    expect(controller.asked.map(({ priority }) => priority)).toEqual(Array(5).fill(-3));
  });

  it('waits while the next one serves no model yet', async () => {
    const { leader, standby } = await pair();
    let ready = false;
    const model = { modelId: 'fake', text, createdUnixSeconds: 0 };
    const servedModel = () => (ready ? model : null);
    const takeover = async () => {
      await leader.die();
      await standby.serve({}, { servedModel });
      setTimeout(() => {
        ready = true;
      }, 500);
    };
    const answer = clientOf([leader, standby]).generate(input, sampled);
    expect((await collect(watched(answer, 3, () => void takeover()))).tokenIds).toHaveLength(60);
    expect(standby.asked.length).toBeGreaterThan(1);
  });

  it.each([
    ['has lost its workers for good', 'worker-lost', {}],
    ['drains, when that is not wanted', 'draining', { resumeForMs: 0 }],
  ] as const)('is over when it %s', async (_, code, options) => {
    const failure = new HelsError(code, 'over');
    const controller = await new FakeController().serve({ failAfterTokens: 5, failure });
    const answer = clientOf([controller]).generate(input, { ...sampled, ...options });
    await expect(collect(answer)).rejects.toMatchObject({ code, message: 'over' });
    expect(controller.asked).toHaveLength(1);
  });

  const limits = { modelId: 'fake', quantization: 'none', numericsClass: 'exact' } as const;
  it.each([
    { modelDigest: 'e'.repeat(64), contextTokensMax: 512 },
    { modelDigest: 'd'.repeat(64), contextTokensMax: 512, quantization: 'int8' },
  ])('does not go on with other weights', async (others) => {
    const { leader, standby } = await pair();
    const takeover = () =>
      void leader.die().then(() => standby.serve({ limits: { ...limits, ...others } }));
    const answer = clientOf([leader, standby]).generate(input, sampled);
    const message = expect.stringMatching(/cannot go on: it began with model d{64}.*ask again/);
    await expect(collect(watched(answer, 3, takeover))).rejects.toMatchObject({
      code: 'digest-mismatch',
      message,
    });
  });
});

describe('the wait for another controller', () => {
  it('has an end, which names who was tried', async () => {
    const { leader, standby } = await pair();
    const answer = clientOf([leader, standby]).generate(input, { ...sampled, resumeForMs: 500 });
    const message = expect.stringContaining(`tried ${leader.address}, ${standby.address} for `);
    await expect(collect(watched(answer, 3, () => void leader.die()))).rejects.toMatchObject({
      code: 'unreachable',
      message,
    });
  });

  it.each(['abort', 'close'] as const)('ends at once on %s', async (way) => {
    const { leader, standby } = await pair();
    const client = clientOf([leader, standby]);
    const abort = new AbortController();
    const answer = client.generate(input, sampled, { signal: abort.signal });
    // As long as it takes, unless it is ended.
    vi.mocked(sleep).mockImplementation((_, signal) => aborted(signal as AbortSignal));
    const leave = async () => {
      await leader.die();
      await eventually(15_000, 'the wait', () => vi.mocked(sleep).mock.calls.length > 0);
      if (way === 'abort') abort.abort();
      else client.close();
    };
    const ended = collect(watched(answer, 3, () => void leave()));
    await expect(ended).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('an answer told by hand', () => {
  const started = {
    requestId: 'r',
    seed: 77,
    modelDigest: 'd',
    quantization: 'none',
    numericsClass: 'exact',
    promptTokenIds: [10],
  };
  const draining = new HelsError('draining', 'stopping');

  async function tell(tellers: (() => Generator<GenerateEventMessage>)[]) {
    let calls = 0;
    const Generate = streamHandler<unknown, GenerateEventMessage>(async function* () {
      const teller = tellers[Math.min(calls, tellers.length - 1)];
      calls += 1;
      if (teller !== undefined) yield* teller();
    });
    const server = new GrpcServer({ Generate } as unknown as HelsHandlers, {} as RegistryHandlers);
    const port = await server.listen('127.0.0.1:0', serverCredentials(null));
    ends.push(() => server.close(0));
    const client = new HelsClient({ address: `127.0.0.1:${port}` });
    ends.push(() => client.close());
    return { client, calls: () => calls };
  }

  it('gives what was held back once, also when the end itself is lost', async () => {
    const rest = { text: '#', tokenIds: [], logprobs: [] };
    const { client } = await tell([
      function* () {
        yield { started };
        yield { delta: { text: 'a', tokenIds: [1], logprobs: [] } };
        yield { delta: rest };
        throw draining;
      },
      function* () {
        yield { started };
        yield { delta: rest };
        yield { finished: { reason: 'length' } };
      },
    ]);
    const answer = await collect(client.generate(input));
    expect([answer.text, answer.tokenIds]).toEqual(['a#', [1]]);
    expect(answer.finished).toMatchObject({ reason: 'length' });
  });

  it('that breaks again and again without a token is given up', async () => {
    const { client, calls } = await tell([
      function* () {
        yield { started };
        throw draining;
      },
    ]);
    const answer = client.generate(input, { resumeForMs: 1_000 });
    await expect(collect(answer)).rejects.toMatchObject({ code: 'draining' });
    expect(calls()).toBeGreaterThan(1);
    expect(calls()).toBeLessThan(12);
  });
});
