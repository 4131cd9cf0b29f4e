import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { limits } from '../../limits.ts';
import { ApiError, errorAnswer } from './api-error.ts';

/** What Node.js could not read as a request, by its code for that. */
function malformed({ code = '', message }: NodeJS.ErrnoException): ApiError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    const allowed = `the ${limits.httpHeaderBytesMax} bytes that they may have together`;
    return new ApiError(
      431,
      'headers_too_large',
      `the request's headers are longer than ${allowed}`,
    );
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    const [headers, body] = [limits.httpHeadersTimeoutMs, limits.httpBodyTimeoutMs];
    const allowed = `its headers may take ${headers / 1000} s, all of it ${body / 1000} s`;
    return new ApiError(408, 'request_timeout', `the request did not come in time: ${allowed}`);
  }
  return new ApiError(400, 'invalid_request', `the request is not HTTP/1.1: ${message}`);
}

/** The whole answer to what is no request, which has no response object: the envelope and the id that every answer has. */
export function malformedAnswer(error: NodeJS.ErrnoException, requestId: string): string {
  const { status, body } = errorAnswer(malformed(error), requestId);
  const text = JSON.stringify(body);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    `x-request-id: ${requestId}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(text)}`,
    'x-content-type-options: nosniff',
    'connection: close',
  ];
  return `${head.join('\r\n')}\r\n\r\n${text}`;
}

/** Answers, unless the connection is broken or an answer has begun on it, and closes it. What still comes is thrown away for a moment, so that the client sees the answer, not a reset. */
export function refuseMalformed(
  error: NodeJS.ErrnoException,
  socket: Duplex,
  options: { requestId: string; answering: boolean },
): void {
  if (error.code === 'ECONNRESET' || options.answering) {
    socket.destroy();
    return;
  }
  // It has been told: whatever comes after it is malformed, too.
  if (!socket.writable) return;
  socket.end(malformedAnswer(error, options.requestId));
  const timer = setTimeout(() => socket.destroy(), limits.httpDiscardTimeoutMs);
  socket.once('close', () => clearTimeout(timer));
}
