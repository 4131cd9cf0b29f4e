/** Failures as OpenAI's clients expect them: a status and the envelope {error: {message, type, param, code}}. */
import { type ErrorCode, HelsError, toHelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';

interface ErrorKind {
  status: number;
  type: string;
  code: string | null;
}

const invalid = 'invalid_request_error';
const unavailable = 'service_unavailable';
const broken: ErrorKind = { status: 500, type: 'server_error', code: 'internal_error' };

const kindOf: Partial<Readonly<Record<ErrorCode, ErrorKind>>> = {
  'request-invalid': { status: 400, type: invalid, code: 'invalid_value' },
  'context-too-long': { status: 400, type: invalid, code: 'context_length_exceeded' },
  'model-not-found': { status: 404, type: invalid, code: 'model_not_found' },
  overloaded: { status: 429, type: 'rate_limit_error', code: 'overloaded' },
  'not-ready': { status: 503, type: unavailable, code: 'not_ready' },
  draining: { status: 503, type: unavailable, code: 'draining' },
  'worker-lost': { status: 503, type: unavailable, code: 'worker_lost' },
  'memory-exceeded': { status: 503, type: unavailable, code: 'memory_exceeded' },
  'deadline-exceeded': { status: 504, type: 'server_error', code: 'deadline_exceeded' },
  'numeric-range': { status: 500, type: 'server_error', code: 'numeric_range' },
  denied: { status: 403, type: invalid, code: 'denied' },
  // Nobody reads it: the client is gone.
  cancelled: { status: 499, type: invalid, code: 'cancelled' },
};

/** A failure that exists only in HTTP. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly code: string;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: string,
    message: string,
    options: { param?: string; headers?: Readonly<Record<string, string>> } = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = options.param ?? null;
    this.headers = options.headers ?? {};
  }
}

export interface ErrorAnswer {
  status: number;
  headers: Readonly<Record<string, string>>;
  body: {
    error: { message: string; type: string; param: string | null; code: string | null };
  };
}

/** A broken invariant's message can hold anything, so it goes to the log and the client gets the id to find it. */
export function errorAnswer(error: unknown, requestId: string): ErrorAnswer {
  if (error instanceof ApiError) {
    const { status, headers, message, param, code } = error;
    return { status, headers, body: { error: { message, type: invalid, param, code } } };
  }
  const failure = toHelsError(error);
  const kind = kindOf[failure.code] ?? broken;
  const message =
    kind === broken
      ? `internal error; the controller's log has it under request ${requestId}`
      : failure.message;
  const retry = kind.status === 429 || kind.status === 503;
  return {
    status: kind.status,
    headers: retry ? { 'retry-after': String(limits.retryAfterSeconds) } : {},
    body: { error: { message, type: kind.type, param: failure.field, code: kind.code } },
  };
}

/** Failures of ours that belong in the log, not those of a client. */
export function isOurFault(error: unknown): boolean {
  if (error instanceof ApiError) return false;
  return !(error instanceof HelsError) || (kindOf[error.code]?.status ?? 500) === 500;
}
