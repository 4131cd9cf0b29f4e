/** Clients that stop reading, and generations that take too long: with limits of moments, so that a test can wait for them. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { systemChance } from '../../../controller/api/chance.ts';
import { streamHandler } from '../../../controller/api/grpc/handlers.ts';
import { helsHandlers, type OperationsPort } from '../../../controller/api/grpc/hels-service.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { loopbackHosts } from '../../../controller/api/http/access.ts';
import { EventStream } from '../../../controller/api/http/event-stream.ts';
import { type Exchange, sendText } from '../../../controller/api/http/exchange.ts';
import type { Routes } from '../../../controller/api/http/routes.ts';
import { HttpServer } from '../../../controller/api/http/server.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import type { GenerateEvent } from '../../../proto/gen/hels/v1/GenerateEvent.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { channelOptions, HelsService } from '../../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../../proto/rpc/status.ts';
import { startHttpTestServer } from '../../support/http-test-server.ts';
import { tokenizerFixture } from '../../support/text-model.ts';

const stallMs = 1000;
const deadlineMs = 3000;
vi.mock('../../../controller/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../../controller/limits.ts')>();
  return { limits: { ...limits, writeStallTimeoutMs: 1000, requestDeadlineMs: 3000 } };
});

const silent = { error: () => undefined } as never;
/** More than the sockets of both ends take by themselves. */
const bigBytes = 64 * 2 ** 20;

describe('an HTTP client that does not read', () => {
  let server: HttpServer;
  let failure: unknown = null;
  afterEach(async () => {
    await server.drain(0);
    await server.close();
  });

  /** What each request is answered with. */
  async function start(handle: (exchange: Exchange) => Promise<void> | void): Promise<Socket> {
    failure = null;
    server = new HttpServer({
      routes: {
        handle: async (exchange: Exchange) => {
          try {
            await handle(exchange);
          } catch (error) {
            failure = error;
            throw error;
          }
        },
      } as Routes,
      access: { apiKey: null, allowedHosts: loopbackHosts('127.0.0.1'), corsOrigins: [] },
      tls: null,
      clock: systemClock,
      chance: systemChance,
      logger: silent,
    });
    const socket = connect(await server.listen('127.0.0.1', 0), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.pause();
    socket.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n');
    return socket;
  }

  async function readRest(socket: Socket): Promise<{ bytes: number; end: string }> {
    let bytes = 0;
    let end = '';
    socket.on('data', (data) => {
      bytes += data.length;
      end = (end + data.toString('latin1')).slice(-5);
    });
    socket.resume();
    await once(socket, 'close');
    return { bytes, end };
  }

  it('of a stream is cut: no last event is kept for it', async () => {
    let destroyed = false;
    const socket = await start(async ({ response, signal }) => {
      const stream = new EventStream(response, signal, 15_000);
      try {
        for (;;) await stream.send('x'.repeat(2 ** 16));
      } catch (error) {
        destroyed = response.destroyed || response.socket === null;
        stream.fail({ status: 504, headers: {}, body: { error: {} as never } });
        throw error;
      }
    });
    await expect.poll(() => failure, { timeout: 10 * stallMs }).not.toBeNull();
    expect(failure).toMatchObject({ code: 'deadline-exceeded' });
    await expect.poll(() => destroyed).toBe(true);
    // A chunked body that was ended has a last chunk of no bytes.
    expect((await readRest(socket)).end).not.toBe('0\r\n\r\n');
  });

  it('of a whole answer is cut', async () => {
    let cut = false;
    const socket = await start(({ response }) => {
      response.socket?.once('close', () => {
        cut = true;
      });
      sendText(response, 200, 'x'.repeat(bigBytes), 'text/plain');
    });
    await expect.poll(() => cut, { timeout: 10 * stallMs }).toBe(true);
    expect((await readRest(socket)).bytes).toBeLessThan(bigBytes);
  });

  it('but slowly gets all of it', async () => {
    const socket = await start(({ response }) =>
      sendText(response, 200, 'x'.repeat(bigBytes), 'text/plain', { connection: 'close' }),
    );
    const rest = readRest(socket);
    for (let pause = 0; pause < 8; pause += 1) {
      socket.pause();
      await sleep(stallMs / 4);
      socket.resume();
      await sleep(5);
    }
    expect((await rest).bytes).toBeGreaterThan(bigBytes);
  });
});

describe('a gRPC client', () => {
  let text: TextModel;
  let server: GrpcServer | null = null;
  let client: InstanceType<typeof HelsService> | null = null;
  beforeAll(async () => {
    text = await TextModel.load(tokenizerFixture('byte-level'));
  });
  afterEach(async () => {
    client?.close();
    await server?.close(0);
  });
  afterAll(() => text.close());

  async function connectTo(handlers: HelsHandlers): Promise<InstanceType<typeof HelsService>> {
    server = new GrpcServer(handlers, {} as RegistryHandlers);
    const port = await server.listen('127.0.0.1:0', grpc.ServerCredentials.createInsecure());
    const insecure = grpc.credentials.createInsecure();
    client = new HelsService(`127.0.0.1:${port}`, insecure, channelOptions);
    return client;
  }

  it('that does not read ends its call, and is told when it reads again', async () => {
    let ended = false;
    const delta = { text: 'x'.repeat(2 ** 16), tokenIds: [1], logprobs: [] };
    const generate = streamHandler<unknown, GenerateEvent>(async function* () {
      try {
        for (;;) {
          await sleep(0);
          yield { delta };
        }
      } finally {
        ended = true;
      }
    });
    const api = await connectTo({ Generate: generate } as unknown as HelsHandlers);
    const call = api.generate({ prompt: 'x' });
    const failed = new Promise((resolve) => {
      call.on('error', (error) => resolve(fromServiceError(error, 'server')));
    });
    // Before its first message is taken the client's library does not hold the server back.
    call.once('data', () => call.pause());
    const began = performance.now();
    await expect.poll(() => ended, { timeout: 10 * stallMs }).toBe(true);
    expect(performance.now() - began).toBeGreaterThan(stallMs - 100);
    call.resume();
    const message = `the client read nothing for ${stallMs} ms`;
    expect(await failed).toMatchObject({ code: 'deadline-exceeded', message });
  });

  it('gets an answer within the same deadline as one of HTTP', async () => {
    const http = await startHttpTestServer({ text, engine: { tokenDelayMs: 60_000 } });
    const api = await connectTo(
      helsHandlers(http.service, {} as OperationsPort, systemClock.nowMs),
    );
    const began = performance.now();
    const call = api.generate({ prompt: 'Hels' });
    call.resume();
    const streamed = once(call, 'error').then(([error]) => fromServiceError(error, 'server'));
    const whole = fetch(`${http.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'fake', prompt: 'Hels' }),
    });
    const message = `the request took longer than ${deadlineMs} ms`;
    expect(await streamed).toMatchObject({ code: 'deadline-exceeded', message });
    expect(performance.now() - began).toBeGreaterThan(deadlineMs - 100);
    const response = await whole;
    expect(response.status).toBe(504);
    expect(await response.json()).toMatchObject({ error: { code: 'deadline_exceeded', message } });
    await expect.poll(() => http.engine.running).toBe(0);
    await http.close();
  });
});
