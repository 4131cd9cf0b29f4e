import type { IncomingMessage, ServerResponse } from 'node:http';
import { HelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';
import { ApiError } from './api-error.ts';
import type { BodyRoom, BodyShare } from './body-room.ts';
import { nestsBeyond } from './json-nesting.ts';

/** The body as a JSON object; refuses by status 400, 413, 415 or 429 before it holds more than the limits. */
export async function readJson(
  request: IncomingMessage,
  response: ServerResponse,
  room: BodyRoom,
): Promise<Readonly<Record<string, unknown>>> {
  checkHeaders(request);
  const share = room.open();
  try {
    return parseObject(await readBody(request, share));
  } catch (error) {
    if (!request.complete) dropRest(request, response);
    throw error;
  } finally {
    share.close();
  }
}

async function readBody(request: IncomingMessage, share: BodyShare): Promise<Buffer> {
  checkSize(Number(request.headers['content-length'] ?? 0));
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      size += (chunk as Buffer).length;
      checkSize(size);
      share.grow(size);
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    if (error instanceof ApiError || error instanceof HelsError) throw error;
    throw new HelsError('cancelled', 'the client went away while it sent the body', {
      cause: error,
    });
  }
  return Buffer.concat(chunks);
}

function checkSize(size: number): void {
  if (size <= limits.httpBodyBytesMax) return;
  const message = `the body has more than the ${limits.httpBodyBytesMax} bytes a request may have`;
  throw new ApiError(413, 'request_too_large', message);
}

function checkHeaders(request: IncomingMessage): void {
  const type = request.headers['content-type'] ?? '';
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new ApiError(
      415,
      'unsupported_media_type',
      `content-type: '${type.slice(0, 80)}' is not supported; send application/json`,
    );
  }
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') {
    throw new ApiError(
      415,
      'unsupported_media_type',
      `content-encoding: '${encoding.slice(0, 80)}' is not supported; send the body uncompressed`,
    );
  }
}

function parseObject(body: Buffer): Readonly<Record<string, unknown>> {
  if (nestsBeyond(limits.jsonNestingMax, body)) {
    const message = `the body nests lists and objects deeper than the ${limits.jsonNestingMax} levels a request may have`;
    throw new ApiError(400, 'invalid_json', message);
  }
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ApiError(400, 'invalid_json', `the body is not JSON: ${reason.slice(0, 200)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ApiError(400, 'invalid_json', 'the body must be a JSON object');
  }
  return value as Readonly<Record<string, unknown>>;
}

/**
 * The connection ends after the answer. What the client still sends is read and dropped for a while: closing at once would reset the
 * connection, and the client would see that instead of the answer.
 */
function dropRest(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader('connection', 'close');
  response.once('finish', () => {
    request.resume();
    const timer = setTimeout(() => request.destroy(), limits.httpDiscardTimeoutMs);
    request.once('close', () => clearTimeout(timer));
  });
}
