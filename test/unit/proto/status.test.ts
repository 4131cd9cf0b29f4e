import * as grpc from '@grpc/grpc-js';
import { expect, it } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import { fromServiceError, toServiceError } from '../../../proto/rpc/status.ts';

/** Over a real connection: what gRPC.js cannot encode shows only there. */
async function throughGrpc(error: unknown): Promise<HelsError> {
  const identity = (bytes: Buffer) => bytes;
  const service = {
    fail: {
      path: '/test/fail',
      requestStream: false,
      responseStream: false,
      requestSerialize: identity,
      requestDeserialize: identity,
      responseSerialize: identity,
      responseDeserialize: identity,
    },
  };
  const server = new grpc.Server();
  server.addService(service, {
    fail: (_: unknown, callback: grpc.sendUnaryData<Buffer>) => callback(toServiceError(error)),
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (failure, bound) =>
      failure === null ? resolve(bound) : reject(failure),
    );
  });
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  try {
    return await new Promise((resolve) => {
      const options = { deadline: Date.now() + 5_000 };
      client.makeUnaryRequest(
        '/test/fail',
        identity,
        identity,
        Buffer.alloc(0),
        options,
        (failure) => resolve(fromServiceError(failure, 'the peer')),
      );
    });
  } finally {
    client.close();
    server.forceShutdown();
  }
}

it.each(['max_tokens', '/tmp/modèle', '/tmp\0x\n', 'größe % 25%', '模型'])(
  'brings the field %j back as it was',
  async (field) => {
    const error = new HelsError('model-invalid', `${field}: does not exist`, { field });
    expect(await throughGrpc(error)).toMatchObject({
      code: 'model-invalid',
      message: `${field}: does not exist`,
      field,
    });
  },
);

it('answers with half a surrogate pair, where a text was cut, in message and field', async () => {
  const cut = `${'x'.repeat(3)}😀`.slice(0, 4);
  const error = new HelsError('model-not-found', `model: '${cut}'`, { field: cut });
  expect(await throughGrpc(error)).toMatchObject({
    code: 'model-not-found',
    message: "model: 'xxx\ufffd'",
    field: 'xxx\ufffd',
  });
});

it('answers with a message and a field that no trailer holds: shortened', async () => {
  const long = '模'.repeat(100_000);
  const back = await throughGrpc(new HelsError('model-invalid', long, { field: long }));
  expect(back.code).toBe('model-invalid');
  expect(back.message).toBe(`${'模'.repeat(3_997)}...`);
  expect(back.field).toBe(`${'模'.repeat(997)}...`);
});

it('makes an internal error of what is none', async () => {
  expect(await throughGrpc(new TypeError('x is not a function'))).toMatchObject({
    code: 'internal',
    message: 'x is not a function',
    field: null,
  });
});
