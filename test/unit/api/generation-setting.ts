/** The service over an engine that makes its tokens up. */
import { Registry } from 'prom-client';
import type { TextRequest } from '../../../controller/api/generation-request.ts';
import {
  GenerationService,
  type GenerationServiceOptions,
} from '../../../controller/api/generation-service.ts';
import { ServingMetrics } from '../../../controller/metrics/serving-metrics.ts';
import type { TextModel } from '../../../controller/tokenizer/text-model.ts';
import {
  type FakeEngineOptions,
  FakeGenerationEngine,
} from '../../support/fake-generation-engine.ts';

/** Tokens of every single byte, so that answers are full of half and broken characters. */
const bytes = Array.from({ length: 256 }, (_, i) => i + 4);

export function serviceOver(
  model: TextModel,
  engineOptions: Partial<FakeEngineOptions> = {},
  serving: Partial<Pick<GenerationServiceOptions, 'servedModel' | 'awaitReturn'>> = {},
) {
  const engine = new FakeGenerationEngine({ alphabet: bytes, ...engineOptions });
  const registry = new Registry();
  const metrics = new ServingMetrics(registry, () => ({
    requestsRunning: 0,
    requestsWaiting: 0,
    kvBlocksUsed: 0,
    kvBlocksTotal: 0,
    kvBlocksCached: 0,
    kvParkedBlocksUsed: 0,
    kvParkedBlocksTotal: 0,
    kvOfRanks: [],
    recomputeTax: 0,
    workersRegistered: [],
    workersAlive: 0,
    epoch: 0,
  }));
  let now = 1000;
  const service = new GenerationService({
    engine,
    metrics,
    servedModel: () => ({ modelId: 'fake', text: model, createdUnixSeconds: 0 }),
    awaitReturn: async () => undefined,
    ...serving,
    // Each look at the clock is 100 ms after the last.
    clock: {
      nowMs: () => {
        now += 100;
        return now;
      },
      unixMs: () => 0,
    },
    chance: { seed: () => 77, requestId: () => 'id-1' },
  });
  return { engine, service, registry };
}

export const request = (fields: Partial<TextRequest> = {}): TextRequest => ({
  model: null,
  input: { type: 'tokens', tokenIds: [10, 11, 12] },
  temperature: 0,
  topP: 1,
  topK: 0,
  logprobs: -1,
  seed: null,
  maxTokens: 20,
  minTokens: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEndOfText: true,
  resume: null,
  cacheSalt: null,
  prefixCache: true,
  priority: 0,
  ...fields,
});
