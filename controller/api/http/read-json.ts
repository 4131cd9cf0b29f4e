import type { IncomingMessage, ServerResponse } from 'node:http';
import { HelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';
import { ApiError } from './api-error.ts';

/** The body as a JSON object; refuses by status 400, 413 or 415 before it holds more than the limit. */
export async function readJson(
  request: IncomingMessage,
  response: ServerResponse,
): Promise<Readonly<Record<string, unknown>>> {
  checkHeaders(request);
  if (Number(request.headers['content-length'] ?? 0) > limits.httpBodyBytesMax) {
    throw tooLarge(request, response);
  }
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      size += (chunk as Buffer).length;
      if (size > limits.httpBodyBytesMax) throw tooLarge(request, response);
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new HelsError('cancelled', 'the client went away while it sent the body', {
      cause: error,
    });
  }
  return parseObject(Buffer.concat(chunks).toString('utf8'));
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

function parseObject(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ApiError(400, 'invalid_json', `the body is not JSON: ${reason.slice(0, 200)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ApiError(400, 'invalid_json', 'the body must be a JSON object');
  }
  if (isNestedBeyond(limits.jsonNestingMax, value)) {
    const message = `the body nests lists and objects deeper than the ${limits.jsonNestingMax} levels a request may have`;
    throw new ApiError(400, 'invalid_json', message);
  }
  return value as Readonly<Record<string, unknown>>;
}

/** Level by level rather than by recursion, which is what has to be bounded. */
function isNestedBeyond(levelsMax: number, value: object): boolean {
  let level = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth === levelsMax) return true;
    level = level.flatMap((one) =>
      Object.values(one).filter((inner) => typeof inner === 'object' && inner !== null),
    );
  }
  return false;
}

/**
 * The connection ends after the answer. What the client still sends is read and dropped for a while: closing at once would reset the
 * connection, and the client would see that instead of the answer.
 */
function tooLarge(request: IncomingMessage, response: ServerResponse): ApiError {
  response.once('finish', () => {
    request.resume();
    const timer = setTimeout(() => request.destroy(), limits.httpDiscardTimeoutMs);
    request.once('close', () => clearTimeout(timer));
  });
  return new ApiError(
    413,
    'request_too_large',
    `the body has more than the ${limits.httpBodyBytesMax} bytes a request may have`,
    { headers: { connection: 'close' } },
  );
}
