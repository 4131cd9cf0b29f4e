/** A generation as gRPC brings it: the real service over a real socket and a fake engine. */
import * as grpc from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { helsHandlers, type OperationsPort } from '../../../controller/api/grpc/hels-service.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { limits } from '../../../controller/limits.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import type { GenerateRequest } from '../../../proto/gen/hels/v1/GenerateRequest.ts';
import type { HelsClient as HelsStub } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { channelOptions, HelsService } from '../../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../../proto/rpc/status.ts';
import { type HttpTestServer, startHttpTestServer } from '../../support/http-test-server.ts';

let http: HttpTestServer;
let server: GrpcServer;
let stub: HelsStub;

beforeEach(async () => {
  http = await startHttpTestServer();
  const handlers = helsHandlers(http.service, {} as OperationsPort, () => systemClock.nowMs());
  server = new GrpcServer(handlers, {} as RegistryHandlers);
  const port = await server.listen('127.0.0.1:0', grpc.ServerCredentials.createInsecure());
  const credentials = grpc.credentials.createInsecure();
  stub = new HelsService(`127.0.0.1:${port}`, credentials, channelOptions);
});
afterEach(async () => {
  stub.close();
  await server.close(0);
  await http.close();
});

/** What the engine is asked; throws what the call throws. */
async function asked(request: GenerateRequest) {
  try {
    for await (const _ of stub.generate({ prompt: 'Hels', maxTokens: 2, ...request }));
  } catch (error) {
    throw fromServiceError(error, 'server');
  }
  return http.engine.requests.at(-1);
}

it('asks for no logprobs unless told how many', async () => {
  const logprobs = async (sampling: GenerateRequest['sampling']) =>
    (await asked({ sampling: sampling ?? null }))?.sampling.logprobs;
  expect(await logprobs(null)).toBe(-1);
  expect(await logprobs({ temperature: 0.5 })).toBe(-1);
  expect(await logprobs({ logprobs: -1 })).toBe(-1);
  expect(await logprobs({ logprobs: 0 })).toBe(0);
  expect(await logprobs({ logprobs: 3 })).toBe(3);
});

it('takes top_k 0 and -1 for off, and no other below 1', async () => {
  for (const topK of [0, -1]) expect((await asked({ sampling: { topK } }))?.sampling.topK).toBe(0);
  await expect(asked({ sampling: { topK: -2 } })).rejects.toMatchObject({ field: 'top_k' });
});

it('ends with the stop tokens that are named', async () => {
  const stopTokenIds = [7, 8];
  expect((await asked({ stopTokenIds, ignoreEndOfText: true }))?.stopTokenIds).toEqual([7, 8]);
  const wrong = asked({ stopTokenIds: [1e6] });
  await expect(wrong).rejects.toMatchObject({ field: 'stop_token_ids[0]' });
});

it('hands min_tokens on as tokens that the engine must not sample before, and refuses more than max_tokens', async () => {
  const banned = (await asked({ minTokens: 2, stopTokenIds: [7] }))?.bannedBefore;
  const { promptTokenIds = [], bannedBefore } = (await asked({})) ?? {};
  expect(banned).toEqual({ position: promptTokenIds.length + 2, tokenIds: [0, 7] });
  expect(bannedBefore).toBeUndefined();
  await expect(asked({ minTokens: 3 })).rejects.toMatchObject({ field: 'min_tokens' });
});

it('hands the priority on, 0 unless given', async () => {
  for (const priority of [0, -1000, 1000])
    expect((await asked({ priority }))?.priority).toBe(priority);
  expect((await asked({}))?.priority).toBe(0);
  const error = { code: 'request-invalid', field: 'priority' };
  const message = 'priority: -1001 is not a whole number from -1000 to 1000';
  await expect(asked({ priority: -1001 })).rejects.toMatchObject({ ...error, message });
});

it('hears the roles that HTTP hears, a developer as the system', async () => {
  const promptOf = async (role: string) =>
    (await asked({ messages: { messages: [{ role, content: 'Hi' }] } }))?.promptTokenIds;
  expect(await promptOf('developer')).toEqual(await promptOf('system'));
  expect(await promptOf('user')).not.toEqual(await promptOf('system'));
  await expect(promptOf('robot')).rejects.toThrow('system, developer, user, assistant');
});

it('refuses a message that is larger than any request may be, with the limit', async () => {
  const prompt = 'a'.repeat(limits.grpcMessageBytesMax);
  const call = stub.generate({ prompt });
  const failure = await new Promise((resolve) => call.once('error', resolve).resume());
  expect(failure).toMatchObject({
    code: grpc.status.RESOURCE_EXHAUSTED,
    details: expect.stringContaining('6553600'),
  });
  await expect(asked({})).resolves.toBeDefined();
});
