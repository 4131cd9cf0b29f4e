/**
 * Every failure that a person or program can meet has one code. The edges translate it: the CLI into an exit code, gRPC into a
 * status, HTTP into the OpenAI error envelope.
 */
export type ErrorCode =
  | 'usage' // the command line is wrong
  | 'config-invalid' // a config file, option or plan input is wrong
  | 'model-invalid' // a model directory, file, tensor or config field is wrong
  | 'request-invalid' // a request's field is wrong
  | 'model-not-found' // the named model is not served
  | 'not-found' // nothing else of that name is there, a worker for example
  | 'context-too-long' // prompt plus output do not fit the model or the KV room
  | 'memory-exceeded' // a device cannot hold what was asked
  | 'plan-infeasible' // no split fits the devices
  | 'digest-mismatch' // a worker's model files are not those of the plan
  | 'stale-fence' // (term, epoch) is older than the newest accepted
  | 'not-ready' // no model is being served yet
  | 'overloaded' // a bounded queue is full
  | 'worker-lost' // a rank failed while it was needed
  | 'draining' // the process is stopping
  | 'cancelled' // the caller went away, or another call took this one's place
  | 'deadline-exceeded'
  | 'unreachable' // nothing answers at the address
  | 'denied' // not allowed
  | 'numeric-range' // NaN, Inf or overflow in the model's arithmetic
  | 'internal'; // a broken invariant of ours

/** Exit codes of every command (contract): 0 ok, 1 other, 2 usage, 3 config, 4 model, 5 unreachable, 6 denied. */
export const exitCodeOf: Readonly<Record<ErrorCode, number>> = {
  usage: 2,
  'config-invalid': 3,
  'model-invalid': 4,
  'request-invalid': 2,
  'model-not-found': 4,
  'not-found': 1,
  'context-too-long': 1,
  'memory-exceeded': 3,
  'plan-infeasible': 3,
  'digest-mismatch': 4,
  'stale-fence': 1,
  'not-ready': 1,
  overloaded: 1,
  'worker-lost': 1,
  draining: 1,
  cancelled: 1,
  'deadline-exceeded': 5,
  unreachable: 5,
  denied: 6,
  'numeric-range': 4,
  internal: 1,
};

const codes: ReadonlySet<string> = new Set(Object.keys(exitCodeOf));

export function isErrorCode(value: string): value is ErrorCode {
  return codes.has(value);
}

/** An expected failure: `message` names the field, the bad value, the allowed range and the fix. */
export class HelsError extends Error {
  override readonly name = 'HelsError';
  readonly code: ErrorCode;
  /** The offending field in the caller's own words (`max_tokens`, `devices[1].memoryBytes`), when there is one. */
  readonly field: string | null;

  constructor(code: ErrorCode, message: string, options: { field?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.field = options.field ?? null;
  }
}

/** Any thrown value as a HelsError; unknown ones become `internal` and keep their cause. */
export function toHelsError(error: unknown): HelsError {
  if (error instanceof HelsError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new HelsError('internal', message, { cause: error });
}
