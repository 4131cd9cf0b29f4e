/** The real HTTP server, generation service and tokenizer over a fake engine, on a real socket. */
import { Registry } from 'prom-client';
import winston from 'winston';
import { systemChance } from '../../controller/api/chance.ts';
import { GenerationService } from '../../controller/api/generation-service.ts';
import { type AccessRules, loopbackHosts } from '../../controller/api/http/access.ts';
import { Routes } from '../../controller/api/http/routes.ts';
import { HttpServer } from '../../controller/api/http/server.ts';
import { ServingMetrics } from '../../controller/metrics/serving-metrics.ts';
import type { Readiness } from '../../controller/readiness.ts';
import { TextModel } from '../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../proto/base/clock.ts';
import { type FakeEngineOptions, FakeGenerationEngine } from './fake-generation-engine.ts';
import { tokenizerFixture } from './text-model.ts';

export interface HttpTestServer {
  url: string;
  engine: FakeGenerationEngine;
  text: TextModel;
  service: GenerationService;
  server: HttpServer;
  /** What is changed in it shows. */
  readiness: { -readonly [Field in keyof Readiness]: Readiness[Field] };
  close(): Promise<void>;
}

export interface HttpTestOptions {
  engine?: Partial<FakeEngineOptions>;
  access?: Partial<AccessRules>;
  /** null: no model is served. */
  modelId?: string | null;
  /** Shared by several servers, and closed by the caller; absent: one of its own. */
  text?: TextModel;
  streamQuietMs?: number;
  bodiesBytesMax?: number;
}

/** Tokens whose text is whole by itself: letters, digits and merged words. */
function readableTokens(text: TextModel): number[] {
  return Array.from({ length: text.vocabularySize }, (_, id) => id).filter((id) =>
    /^[ \w.,]+$/.test(text.decode([id])),
  );
}

export async function startHttpTestServer(options: HttpTestOptions = {}): Promise<HttpTestServer> {
  const text = options.text ?? (await TextModel.load(tokenizerFixture('byte-level')));
  const engine = new FakeGenerationEngine({ alphabet: readableTokens(text), ...options.engine });
  const modelId = options.modelId === undefined ? 'fake' : options.modelId;
  const metrics = new ServingMetrics(new Registry(), () => ({
    requestsRunning: engine.running,
    requestsWaiting: 0,
    kvBlocksUsed: 0,
    kvBlocksTotal: 64,
    kvBlocksCached: 0,
    kvParkedBlocksUsed: 0,
    kvParkedBlocksTotal: 0,
    kvOfRanks: [],
    recomputeTax: 0,
    workersRegistered: [],
    workersAlive: 3,
    epoch: 1,
  }));
  const shared = { clock: systemClock, chance: systemChance };
  const service = new GenerationService({
    ...shared,
    engine,
    metrics,
    servedModel: () => (modelId === null ? null : { modelId, text, createdUnixSeconds: 1 }),
    awaitReturn: async () => undefined,
  });
  const access = {
    apiKey: null,
    allowedHosts: loopbackHosts('127.0.0.1'),
    corsOrigins: [],
    ...options.access,
  };
  const readiness = { ready: true, phase: '', reason: '' };
  const routes = new Routes({
    ...shared,
    service,
    access,
    metrics,
    readiness: () => readiness,
    ...(options.streamQuietMs === undefined ? {} : { streamQuietMs: options.streamQuietMs }),
    ...(options.bodiesBytesMax === undefined ? {} : { bodiesBytesMax: options.bodiesBytesMax }),
    status: () => ({ status: { state: 'ready', modelId: modelId ?? '' }, plan: null }),
  });
  const logger = winston.createLogger({ silent: true });
  const server = new HttpServer({ ...shared, routes, access, logger, tls: null });
  const port = await server.listen('127.0.0.1', 0);
  const close = async () => {
    await server.drain(0);
    await server.close();
    if (options.text === undefined) await text.close();
  };
  return { url: `http://127.0.0.1:${port}`, engine, text, service, server, readiness, close };
}
