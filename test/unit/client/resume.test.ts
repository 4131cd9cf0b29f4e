/** Streams that break in mid-answer, over real connections to the real service; its engine makes the tokens up. */
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type * as grpc from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type GenerateEvent,
  type GenerateInput,
  type GenerateOptions,
  HelsClient,
  type HelsClientOptions,
} from '../../../client/sdk/index.ts';
import type { GenerationServiceOptions } from '../../../controller/api/generation-service.ts';
import { streamHandler } from '../../../controller/api/grpc/handlers.ts';
import { helsHandlers, type OperationsPort } from '../../../controller/api/grpc/hels-service.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import type { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerateEvent as GenerateEventMessage } from '../../../proto/gen/hels/v1/GenerateEvent.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { serverCredentials } from '../../../proto/rpc/credentials.ts';
import { Authority, readCertificate } from '../../support/certificates.ts';
import { collect } from '../../support/daemons.ts';
import type { FakeEngineOptions } from '../../support/fake-generation-engine.ts';
import { loadTextModel, tokenizerFixture } from '../../support/text-model.ts';
import { serviceOver } from '../api/generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await loadTextModel(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

type Generate = NonNullable<HelsHandlers['Generate']>;

/** One life of a controller after the other. */
class FakeController {
  readonly host: string;
  port = 0;
  readonly asked: Parameters<Generate>[0]['request'][] = [];
  changes = 0;
  changing: () => Promise<void> = () => Promise.resolve();
  #server: GrpcServer | null = null;
  #credentials: grpc.ServerCredentials;

  constructor(host = '127.0.0.1', credentials = serverCredentials(null)) {
    this.host = host;
    this.#credentials = credentials;
  }

  get address(): string {
    return `${this.host}:${this.port}`;
  }

  async serve(
    engine: Partial<FakeEngineOptions> = {},
    serving: Partial<Pick<GenerationServiceOptions, 'servedModel'>> = {},
  ): Promise<this> {
    const { service } = serviceOver(text, engine, serving);
    const change = async () => {
      this.changes += 1;
      await this.changing();
    };
    const operations = {
      status: () => ({ term: this.port }),
      undeploy: change,
      async *replan() {
        await change();
        yield { proposal: {} };
      },
    } as unknown as OperationsPort;
    const handlers = helsHandlers(service, operations, systemClock.nowMs);
    const { Generate: generate } = handlers;
    const Generate: Generate = (call) => {
      this.asked.push(call.request);
      generate(call);
    };
    const server = new GrpcServer({ ...handlers, Generate }, {} as RegistryHandlers);
    this.port = await server.listen(this.address, this.#credentials);
    this.#server = server;
    ends.push(() => server.close(0));
    return this;
  }

  /** As when it is killed: connections break, and nobody listens. */
  async die(): Promise<void> {
    await this.#server?.close(0);
  }
}

function clientOf(controllers: FakeController[], tls?: HelsClientOptions['tls']): HelsClient {
  const address = controllers.map((controller) => controller.address).join();
  const client = new HelsClient({ address, ...(tls === undefined ? {} : { tls }) });
  ends.push(() => client.close());
  return client;
}

const input: GenerateInput = { promptTokenIds: [10, 11, 12] };
const sampled: GenerateOptions = { temperature: 1, maxTokens: 60, ignoreEndOfText: true };

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

const slow = { tokenDelayMs: 4 };

/** A leader, and a port where nobody listens yet. */
async function pair(engine: Partial<FakeEngineOptions> = slow) {
  const standby = await new FakeController().serve();
  await standby.die();
  return { leader: await new FakeController().serve(engine), standby };
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
    let leftMs = 0;
    const leave = async () => {
      await leader.die();
      await sleep(600);
      leftMs = performance.now();
      if (way === 'abort') abort.abort();
      else client.close();
    };
    const ended = collect(watched(answer, 3, () => void leave()));
    await expect(ended).rejects.toMatchObject({ code: 'cancelled' });
    expect(leftMs).toBeGreaterThan(0);
    expect(performance.now() - leftMs).toBeLessThan(500);
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

describe('a call that nobody has answered', () => {
  it('goes to the next address when nobody listens at the first, and stays there', async () => {
    const { leader, standby } = await pair();
    const client = clientOf([standby, leader]);
    expect((await client.status()).term).toBe(leader.port);
    await standby.serve();
    expect((await client.status()).term).toBe(leader.port);
  });

  it('waits for a takeover within its deadline', async () => {
    const { leader, standby } = await pair();
    await leader.die();
    const client = clientOf([leader, standby]);
    const refused = client.status({ deadlineMs: 700 });
    const message = expect.stringContaining(`tried ${leader.address}, ${standby.address} for `);
    await expect(refused).rejects.toMatchObject({ code: 'unreachable', message });
    setTimeout(() => void standby.serve(), 500);
    const answer = await collect(client.generate(input, sampled));
    expect(answer.tokenIds).toHaveLength(60);
  });

  it('fails at once when there is one address', async () => {
    const { standby } = await pair();
    const beganMs = performance.now();
    await expect(collect(clientOf([standby]).generate(input))).rejects.toMatchObject({
      code: 'unreachable',
      message: expect.stringMatching(/^nothing answers at [^;]*$/),
    });
    expect(performance.now() - beganMs).toBeLessThan(2_000);
  });

  it('does not wait for a host that says nothing', async () => {
    const silent = createServer(() => undefined);
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    ends.push(() => void silent.close());
    const { port } = silent.address() as AddressInfo;
    const { leader } = await pair();
    const client = new HelsClient({ address: `127.0.0.1:${port},${leader.address}` });
    ends.push(() => client.close());
    expect((await client.status({ deadlineMs: 15_000 })).term).toBe(leader.port);
  });

  it('holds each certificate against the name under which its controller was dialled', async () => {
    const authority = new Authority();
    ends.push(() => authority.remove());
    const named = async (host: string, names: string) => {
      const identity = readCertificate(authority.issue('controller', { names }));
      return await new FakeController(host, serverCredentials(identity)).serve();
    };
    const first = await named('localhost', 'DNS:localhost');
    const second = await named('127.0.0.1', 'IP:127.0.0.1');
    const user = readCertificate(authority.issue('user'));
    const client = clientOf([first, second], user);
    expect((await client.status()).term).toBe(first.port);
    await first.die();
    expect((await client.status()).term).toBe(second.port);
  });
});

describe('a change that must not be made twice', () => {
  const asks: [string, (client: HelsClient) => Promise<unknown>][] = [
    ['undeploy', (client) => client.undeploy('fake')],
    ['replan', (client) => client.replan().next()],
  ];

  it.each(asks)('is asked of one controller only: %s', async (_, ask) => {
    const leader = await new FakeController().serve();
    const standby = await new FakeController().serve();
    leader.changing = () => leader.die().then(() => Promise.reject(new Error('dead')));
    const message = expect.stringMatching(/ may be done or not: look with helsctl status/);
    await expect(ask(clientOf([leader, standby]))).rejects.toMatchObject({
      code: 'unreachable',
      message,
    });
    expect([leader.changes, standby.changes]).toEqual([1, 0]);
  });

  it.each(asks)('goes to the next one when it was not sent, or refused: %s', async (_, ask) => {
    const { leader, standby } = await pair();
    const stopping = await new FakeController().serve();
    stopping.changing = () => Promise.reject(new HelsError('draining', 'stopping'));
    await ask(clientOf([standby, stopping, leader]));
    expect([standby.changes, stopping.changes, leader.changes]).toEqual([0, 1, 1]);
  });

  it.each(asks)('fails at once, and plainly, when nobody listens: %s', async (_, ask) => {
    const { standby } = await pair();
    const message = expect.stringMatching(/^nothing answers at [^;]*$/);
    await expect(ask(clientOf([standby]))).rejects.toMatchObject({ message });
  });
});

describe('a client that is closed', () => {
  it('refuses calls and connects to nobody', async () => {
    const { leader } = await pair();
    const client = clientOf([leader]);
    client.close();
    const refused = {
      code: 'cancelled',
      message: expect.stringMatching(/closed; make a new one$/),
    };
    await expect(client.status()).rejects.toMatchObject(refused);
    await expect(client.undeploy('fake')).rejects.toMatchObject(refused);
    await expect(collect(client.generate(input))).rejects.toMatchObject(refused);
    expect(leader.asked).toEqual([]);
  });
});
