import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { countFields } from '../../../controller/api/grpc/bounded-requests.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { limits } from '../../../controller/limits.ts';
import { HelsService } from '../../../proto/rpc/definitions.ts';

const { Generate, Deploy } = HelsService.service;
const max = limits.grpcMessageFieldsMax;

describe('fields are counted', () => {
  const encoded = Generate.requestSerialize({
    model: 'm',
    messages: { messages: [{ role: 'user', content: 'Hels' }, {}, { content: '\u0022\u0022' }] },
    sampling: { temperature: 0.5, seed: 7 },
    stop: ['a', 'b'],
    resume: { tokenIds: [1, 2, 300], seed: 1 },
  });

  it('at the top, and within the one that is named', () => {
    expect(countFields(encoded, null, 100)).toBe(6);
    expect(countFields(encoded, 4, 100)).toBe(9);
    expect(countFields(encoded, 4, 3)).toBe(4);
  });

  it('of whatever it is, to its end', () => {
    expect(countFields(Buffer.alloc(0), 4, 9)).toBe(0);
    for (let end = 0; end < encoded.length; end += 1) {
      expect(countFields(encoded.subarray(0, end), 4, 100)).toBeLessThanOrEqual(9);
    }
    // Lengths beyond the end, numbers that do not end, groups.
    expect(countFields(Buffer.from([0x22, 0xff, 0xff, 0xff, 0x7f]), 4, 9)).toBe(1);
    expect(countFields(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), 4, 9)).toBe(1);
    expect(countFields(Buffer.from([0x1b, 0x1c, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x0d]), 4, 9)).toBe(
      4,
    );
  });
});

describe('a request to a server', () => {
  const heard: unknown[] = [];
  const hear = (call: grpc.ServerWritableStream<unknown, unknown>) => {
    heard.push(call.request);
    call.end();
  };
  const server = new GrpcServer({ Generate: hear, Deploy: hear } as never, {} as never);
  let client: grpc.Client;
  beforeAll(async () => {
    const port = await server.listen('127.0.0.1:0', grpc.ServerCredentials.createInsecure());
    client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  });
  afterAll(async () => {
    client.close();
    await server.close(1_000);
  });

  /** Sends the bytes as they are; resolves to the status. */
  function send({ path }: { path: string }, bytes: Buffer): Promise<grpc.status> {
    const none = () => undefined;
    const call = client.makeServerStreamRequest(path, () => bytes, none, null);
    call.on('error', none).on('data', none);
    return new Promise((resolve) => {
      call.on('status', ({ code }) => resolve(code));
    });
  }

  /** `count` empty messages as field 1, in field 4. */
  function chatOf(count: number): Buffer {
    const messages = Array.from({ length: count }, () => ({}));
    return Generate.requestSerialize({ messages: { messages } });
  }

  it('of the most messages is heard', async () => {
    expect(await send(Generate, chatOf(limits.chatMessagesMax))).toBe(grpc.status.OK);
    expect(heard).toHaveLength(1);
    expect(heard[0]).toMatchObject({ input: 'messages' });
  });

  it('of too many fields is refused before it is heard', async () => {
    const stops = Generate.requestSerialize({ stop: Array(max + 1).fill('') });
    const ranks = Deploy.requestSerialize({ ranks: Array.from({ length: max + 1 }, () => ({})) });
    expect(await send(Generate, chatOf(max))).toBe(grpc.status.INTERNAL);
    expect(await send(Generate, stops)).toBe(grpc.status.INTERNAL);
    expect(await send(Deploy, ranks)).toBe(grpc.status.INTERNAL);
    expect(heard).toHaveLength(1);
  });
});
