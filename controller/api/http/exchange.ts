import type { IncomingMessage, ServerResponse } from 'node:http';

/** One HTTP request with its answer. */
export interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
  /** Path without the query. */
  path: string;
  requestId: string;
  /** Clock.nowMs() when the request's headers were read. */
  arrivalMs: number;
  /** Aborted when the client leaves, the request's time is over or the server stops; the reason is a HelsError. */
  signal: AbortSignal;
}

export type Handler = (exchange: Exchange) => Promise<void> | void;

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  sendText(response, status, JSON.stringify(body), 'application/json; charset=utf-8', headers);
}

export function sendText(
  response: ServerResponse,
  status: number,
  text: string,
  contentType: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.destroyed || response.headersSent) return;
  const length = Buffer.byteLength(text);
  response.writeHead(status, {
    ...headers,
    'content-type': contentType,
    'content-length': length,
    'x-content-type-options': 'nosniff',
  });
  response.end(text);
}
