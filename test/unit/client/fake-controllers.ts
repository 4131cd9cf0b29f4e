/** Controllers over real connections with the real service, whose engine makes the tokens up; each has one life after the other. */
import type * as grpc from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll } from 'vitest';
import {
  type GenerateInput,
  type GenerateOptions,
  HelsClient,
  type HelsClientOptions,
} from '../../../client/sdk/index.ts';
import type { GenerationServiceOptions } from '../../../controller/api/generation-service.ts';
import { helsHandlers, type OperationsPort } from '../../../controller/api/grpc/hels-service.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { serverCredentials } from '../../../proto/rpc/credentials.ts';
import type { FakeEngineOptions } from '../../support/fake-generation-engine.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { serviceOver } from '../api/generation-setting.ts';

export let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

export const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

type Generate = NonNullable<HelsHandlers['Generate']>;

/** One life of a controller after the other. */
export class FakeController {
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

export function clientOf(
  controllers: FakeController[],
  tls?: HelsClientOptions['tls'],
): HelsClient {
  const address = controllers.map((controller) => controller.address).join();
  const client = new HelsClient({ address, ...(tls === undefined ? {} : { tls }) });
  ends.push(() => client.close());
  return client;
}

export const input: GenerateInput = { promptTokenIds: [10, 11, 12] };
export const sampled: GenerateOptions = { temperature: 1, maxTokens: 60, ignoreEndOfText: true };

export const slow = { tokenDelayMs: 4 };

/** A leader, and a port where nobody listens yet. */
export async function pair(engine: Partial<FakeEngineOptions> = slow) {
  const standby = await new FakeController().serve();
  await standby.die();
  return { leader: await new FakeController().serve(engine), standby };
}
