import * as http from 'node:http';
import * as https from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { Clock } from '../../../proto/base/clock.ts';
import type { Logger } from '../../../proto/base/log.ts';
import { HelsError, toHelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';
import type { Chance } from '../chance.ts';
import { startRequestDeadline } from '../request-deadline.ts';
import { type AccessRules, checkHost, corsHeaders } from './access.ts';
import { ApiError, errorAnswer, isOurFault } from './api-error.ts';
import { type Exchange, sendJson } from './exchange.ts';
import { refuseMalformed } from './malformed-request.ts';
import type { Routes } from './routes.ts';

export interface HttpServerOptions {
  routes: Routes;
  access: AccessRules;
  /** PEM; null: plain HTTP. */
  tls: { certificate: Buffer; key: Buffer } | null;
  clock: Clock;
  chance: Chance;
  logger: Logger;
}

/** The controller's HTTP port. Every request gets an answer, also while it stops: never silence. */
export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #server: http.Server;
  /** Requests under way, those that came before drain(). */
  readonly #running = new Set<AbortController>();
  /** The answers on a connection that are not over: requests may come one behind the other. */
  readonly #answers = new WeakMap<Duplex, Set<http.ServerResponse>>();
  #draining = false;
  #idle: (() => void) | null = null;

  constructor(options: HttpServerOptions) {
    this.#options = options;
    const timeouts = {
      headersTimeout: limits.httpHeadersTimeoutMs,
      requestTimeout: limits.httpBodyTimeoutMs,
      keepAliveTimeout: limits.httpKeepAliveTimeoutMs,
      maxHeaderSize: limits.httpHeaderBytesMax,
      // Node.js would refuse without a body; see #answer.
      requireHostHeader: false,
    };
    const { tls } = options;
    this.#server =
      tls === null
        ? http.createServer(timeouts)
        : https.createServer({
            ...timeouts,
            handshakeTimeout: limits.httpHeadersTimeoutMs,
            cert: tls.certificate,
            key: tls.key,
          });
    this.#server.maxConnections = limits.httpConnectionsMax;
    const serve: http.RequestListener = (request, response) => void this.#serve(request, response);
    // With an expectation that nobody knows: it is ignored, where Node.js would refuse without a body.
    this.#server.on('request', serve).on('checkExpectation', serve);
    this.#server.on('clientError', (error, socket) => {
      const begun = ({ headersSent, writableFinished }: http.ServerResponse) =>
        headersSent && !writableFinished;
      const answering = [...(this.#answers.get(socket) ?? [])].some(begun);
      refuseMalformed(error, socket, { requestId: options.chance.requestId(), answering });
    });
  }

  /** Resolves to the port bound; throws config-invalid when the address cannot be. */
  listen(host: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', (cause) => {
        const message = `--http ${host}:${port}: cannot listen there: ${cause.message}; choose another address or port`;
        reject(new HelsError('config-invalid', message, { field: '--http', cause }));
      });
      this.#server.listen(port, host, () => resolve((this.#server.address() as AddressInfo).port));
    });
  }

  /**
   * Takes no more requests and lets those under way end; what still runs at the deadline ends with the error `draining`. Whoever comes is
   * told so: the port stays open until close().
   */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    await this.#untilIdle(deadlineMs);
    const error = new HelsError('draining', 'the controller stops; send the request again');
    for (const abort of this.#running) abort.abort(error);
    await this.#untilIdle(limits.httpLastWordsTimeoutMs);
  }

  /** At once: drain() first. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #untilIdle(deadlineMs: number): Promise<void> {
    if (this.#running.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, deadlineMs);
      this.#idle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const abort = new AbortController();
    const answers = this.#answers.get(request.socket) ?? new Set();
    this.#answers.set(request.socket, answers.add(response));
    const exchange: Exchange = {
      request,
      response,
      path: pathOf(request.url ?? '/'),
      requestId: this.#options.chance.requestId(),
      arrivalMs: this.#options.clock.nowMs(),
      signal: abort.signal,
    };
    const deadline = startRequestDeadline(abort);
    response.once('close', () => {
      answers.delete(response);
      if (!response.writableFinished) {
        abort.abort(new HelsError('cancelled', 'the client went away'));
      }
    });
    if (!this.#draining) this.#running.add(abort);
    try {
      await this.#answer(exchange);
    } catch (error) {
      this.#fail(exchange, error);
    } finally {
      clearTimeout(deadline);
      cutWhenStalled(response);
      this.#leave(abort);
    }
  }

  async #answer(exchange: Exchange): Promise<void> {
    const { request, response } = exchange;
    const { access, routes } = this.#options;
    response.setHeader('x-request-id', exchange.requestId);
    const cors = corsHeaders(request.headers, access);
    for (const [name, value] of Object.entries(cors)) response.setHeader(name, value);
    if (request.httpVersion === '1.1' && request.headers.host === undefined) {
      throw new ApiError(400, 'invalid_request', 'host: the header is missing');
    }
    checkHost(request.headers, access);
    if (request.method === 'OPTIONS' && Object.keys(cors).length > 0) {
      response.writeHead(204).end();
      return;
    }
    if (this.#draining) {
      response.setHeader('connection', 'close');
      if (request.method === 'POST') {
        // Else the connection is reset when the rest arrives, and the answer may be lost.
        await finished(request.resume(), { writable: false }).catch(() => undefined);
        throw new HelsError('draining', 'the controller stops; send the request to another one');
      }
    }
    await routes.handle(exchange);
  }

  #fail(exchange: Exchange, error: unknown): void {
    const { request, response, requestId, path } = exchange;
    if (isOurFault(error)) {
      const { message, stack } = toHelsError(error);
      this.#options.logger.error(message, { requestId, method: request.method, path, stack });
    }
    const { status, headers, body } = errorAnswer(error, requestId);
    if (!response.headersSent) sendJson(response, status, body, headers);
    // A stream that broke has said so in its last event; anything else under way can only be cut.
    else if (!response.writableEnded) response.destroy();
  }

  #leave(abort: AbortController): void {
    this.#running.delete(abort);
    if (this.#running.size === 0) this.#idle?.();
  }
}

/** Without what asks for it; of a whole URL, as proxies send it, too. */
function pathOf(target: string): string {
  const path = target.replace(/^https?:\/\/[^/?#]*/i, '').split('?', 1)[0] ?? '';
  return path === '' ? '/' : path;
}

/** The end of an answer may still wait for a client that reads nothing: the connection is cut when it makes no progress. */
function cutWhenStalled(response: http.ServerResponse): void {
  const { socket } = response;
  if (socket === null || response.writableFinished) return;
  socket.setTimeout(limits.writeStallTimeoutMs);
  // Before Node.js sets the time of an idle connection.
  response.prependOnceListener('finish', () => socket.setTimeout(0));
}
