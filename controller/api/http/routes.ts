/** The endpoints: which path and method does what. */
import type { Clock } from '../../../proto/base/clock.ts';
import { limits } from '../../limits.ts';
import type { ServingMetrics } from '../../metrics/serving-metrics.ts';
import type { Readiness } from '../../readiness.ts';
import type { GenerationService } from '../generation-service.ts';
import { type AccessRules, checkApiKey, hasApiKey } from './access.ts';
import { chatFormat, completionFormat } from './answer-format.ts';
import { ApiError } from './api-error.ts';
import { BodyRoom } from './body-room.ts';
import { type DashboardStatus, dashboard } from './dashboard.ts';
import { type Exchange, type Handler, sendJson, sendText } from './exchange.ts';
import { generateAnswers } from './generate-answers.ts';
import { modelObject } from './models.ts';
import { readJson } from './read-json.ts';
import { parseChatRequest, parseCompletionRequest } from './request-schema.ts';

export interface RouteOptions {
  service: GenerationService;
  metrics: Pick<ServingMetrics, 'text' | 'contentType'>;
  readiness(): Readiness;
  /** What the dashboard shows. */
  status(): DashboardStatus;
  access: AccessRules;
  clock: Clock;
  /** Of a stream before it says that it lives; absent: the limit. */
  streamQuietMs?: number;
  /** Of bodies that are being received together; absent: the limit. */
  bodiesBytesMax?: number;
}

interface Route {
  method: 'GET' | 'POST';
  /** A request needs the API key when there is one. */
  secured: boolean;
  handle: Handler;
}

const modelsPath = '/v1/models/';

export class Routes {
  readonly #options: RouteOptions;
  readonly #bodyRoom: BodyRoom;
  readonly #routes: ReadonlyMap<string, Route>;

  constructor(options: RouteOptions) {
    this.#options = options;
    this.#bodyRoom = new BodyRoom(options.bodiesBytesMax ?? limits.httpBodiesBytesMax);
    const get = (secured: boolean, handle: Handler): Route => ({ method: 'GET', secured, handle });
    const post = (handle: Handler): Route => ({ method: 'POST', secured: true, handle });
    this.#routes = new Map([
      ['/v1/models', get(true, (exchange) => this.#listModels(exchange))],
      ['/v1/completions', post((exchange) => this.#generate(exchange, 'completion'))],
      ['/v1/chat/completions', post((exchange) => this.#generate(exchange, 'chat'))],
      ['/health', get(false, ({ response }) => sendJson(response, 200, { status: 'ok' }))],
      ['/ready', get(false, (exchange) => this.#ready(exchange))],
      ['/metrics', get(false, (exchange) => this.#metrics(exchange))],
      ['/status', get(true, ({ response }) => sendJson(response, 200, this.#options.status()))],
      ['/', get(false, ({ response }) => dashboard(response))],
    ]);
  }

  /** Throws ApiError or HelsError when the request cannot be served. */
  async handle(exchange: Exchange): Promise<void> {
    const { request, path } = exchange;
    const route = path.startsWith(modelsPath) ? this.#modelRoute() : this.#routes.get(path);
    if (route === undefined) {
      throw new ApiError(404, 'unknown_url', `${request.method} ${path.slice(0, 80)} is unknown`);
    }
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    if (method !== route.method) {
      throw new ApiError(
        405,
        'method_not_allowed',
        `${request.method} is not allowed for ${path}; use ${route.method}`,
        { headers: { allow: route.method } },
      );
    }
    if (route.secured) checkApiKey(request.headers, this.#options.access);
    await route.handle(exchange);
  }

  #modelRoute(): Route {
    return { method: 'GET', secured: true, handle: (exchange) => this.#getModel(exchange) };
  }

  #listModels({ response }: Exchange): void {
    const model = this.#options.service.servedModel();
    sendJson(response, 200, { object: 'list', data: model === null ? [] : [modelObject(model)] });
  }

  #getModel({ response, path }: Exchange): void {
    const id = decodeId(path.slice(modelsPath.length));
    sendJson(response, 200, modelObject(this.#options.service.modelNamed(id)));
  }

  #ready({ request, response }: Exchange): void {
    const { ready, phase, reason } = this.#options.readiness();
    const told = hasApiKey(request.headers, this.#options.access) ? reason : phase;
    sendJson(response, ready ? 200 : 503, { status: ready ? 'ready' : 'not ready', reason: told });
  }

  async #metrics({ response }: Exchange): Promise<void> {
    const { metrics } = this.#options;
    sendText(response, 200, await metrics.text(), metrics.contentType);
  }

  async #generate(exchange: Exchange, endpoint: 'chat' | 'completion'): Promise<void> {
    const body = await readJson(exchange.request, exchange.response, this.#bodyRoom);
    const chat = endpoint === 'chat';
    await generateAnswers({
      service: this.#options.service,
      exchange,
      format: chat ? chatFormat : completionFormat,
      wanted: chat ? parseChatRequest(body) : parseCompletionRequest(body),
      createdUnixSeconds: Math.floor(this.#options.clock.unixMs() / 1000),
      streamQuietMs: this.#options.streamQuietMs ?? limits.streamQuietMsMax,
    });
  }
}

function decodeId(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new ApiError(
      400,
      'invalid_url',
      `the model id '${text.slice(0, 80)}' is not well encoded`,
    );
  }
}
