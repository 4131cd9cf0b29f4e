/**
 * HelsError <-> gRPC status. The code travels in the `hels-code` trailer and the field in `hels-field-bin`, so a client gets the very error
 * back.
 */
import * as grpc from '@grpc/grpc-js';
import { type ErrorCode, HelsError, isErrorCode, toHelsError } from '../domain/errors.ts';
import { connectionFailureOf } from './connection-failure.ts';

const statusOf: Readonly<Record<ErrorCode, grpc.status>> = {
  usage: grpc.status.INVALID_ARGUMENT,
  'config-invalid': grpc.status.INVALID_ARGUMENT,
  'model-invalid': grpc.status.FAILED_PRECONDITION,
  'request-invalid': grpc.status.INVALID_ARGUMENT,
  'model-not-found': grpc.status.NOT_FOUND,
  'not-found': grpc.status.NOT_FOUND,
  'context-too-long': grpc.status.OUT_OF_RANGE,
  'memory-exceeded': grpc.status.RESOURCE_EXHAUSTED,
  'plan-infeasible': grpc.status.FAILED_PRECONDITION,
  'digest-mismatch': grpc.status.FAILED_PRECONDITION,
  'stale-fence': grpc.status.ABORTED,
  'not-ready': grpc.status.UNAVAILABLE,
  overloaded: grpc.status.RESOURCE_EXHAUSTED,
  'worker-lost': grpc.status.UNAVAILABLE,
  draining: grpc.status.UNAVAILABLE,
  cancelled: grpc.status.CANCELLED,
  'deadline-exceeded': grpc.status.DEADLINE_EXCEEDED,
  unreachable: grpc.status.UNAVAILABLE,
  denied: grpc.status.PERMISSION_DENIED,
  'numeric-range': grpc.status.INTERNAL,
  internal: grpc.status.INTERNAL,
};

const codeKey = 'hels-code';
/** Binary: a field can be a path, and gRPC.js throws at text in metadata that is not printable ASCII. */
const fieldKey = 'hels-field-bin';
/** All of them escaped fit into the 64 KiB that HTTP/2 peers take as trailers. */
const detailsCharactersMax = 4_000;
const fieldCharactersMax = 1_000;

/** Bounded, and without half of a surrogate pair, which gRPC.js cannot encode: the call would never be answered. */
function bounded(text: string, charactersMax: number): string {
  const cut = text.length > charactersMax ? `${text.slice(0, charactersMax - 3)}...` : text;
  return Buffer.from(cut).toString();
}

/** What a service handler passes to its callback or emits on its stream. Never throws: nobody would answer the call then. */
export function toServiceError(error: unknown): Partial<grpc.ServiceError> {
  const failure = toHelsError(error);
  const metadata = new grpc.Metadata();
  metadata.set(codeKey, failure.code);
  if (failure.field !== null) {
    metadata.set(fieldKey, Buffer.from(bounded(failure.field, fieldCharactersMax)));
  }
  const message = bounded(failure.message, detailsCharactersMax);
  return { code: statusOf[failure.code], details: message, message, metadata };
}

const tlsHint = 'both ends need certificates of one authority: --tls-ca, --tls-cert, --tls-key';

/** What a server with TLS does to who speaks plain text, gRPC.js to a certificate that was refused, and a socket whose end goes before its alert is read. */
const closedAtOnce: ReadonlySet<string> = new Set(['Failed to connect', 'read ECONNRESET']);

function connectionError(details: string, peer: string): HelsError {
  const { reason, byTls } = connectionFailureOf(details);
  if (byTls) return new HelsError('denied', `no TLS connection to ${peer}: ${reason}; ${tlsHint}`);
  if (closedAtOnce.has(reason)) {
    const message = `${peer} closed the connection at once; if it has TLS, ${tlsHint}`;
    return new HelsError('unreachable', message);
  }
  if (reason === 'Protocol error') {
    const message = `what answers at ${peer} does not speak gRPC; is that the gRPC port?`;
    return new HelsError('unreachable', message);
  }
  return new HelsError('unreachable', `nothing answers at ${peer}: ${reason}`);
}

/** The code that the peer itself gave; null: gRPC or the connection ended the call. */
export function toldCode(error: unknown): ErrorCode | null {
  const code = (error as Partial<grpc.ServiceError>).metadata?.get(codeKey)[0]?.toString();
  return code !== undefined && isErrorCode(code) ? code : null;
}

/** What a client makes of a failed call; `peer` says who did not answer. */
export function fromServiceError(error: unknown, peer: string): HelsError {
  if (error instanceof HelsError) return error;
  const failure = error as Partial<grpc.ServiceError>;
  const code = toldCode(error);
  const field = failure.metadata?.get(fieldKey)[0]?.toString();
  const details = failure.details ?? (error instanceof Error ? error.message : String(error));
  if (code !== null) {
    return new HelsError(code, details, field === undefined ? {} : { field });
  }
  switch (failure.code) {
    case grpc.status.UNAVAILABLE:
      return connectionError(details, peer);
    case grpc.status.DEADLINE_EXCEEDED:
      return new HelsError('deadline-exceeded', `${peer} did not answer in time: ${details}`);
    case grpc.status.CANCELLED:
      return new HelsError('cancelled', `the call to ${peer} was cancelled`);
    case grpc.status.PERMISSION_DENIED:
    case grpc.status.UNAUTHENTICATED:
      return new HelsError('denied', `${peer}: ${details}`);
    default:
      return new HelsError('internal', `${peer}: ${details}`, { cause: error });
  }
}
