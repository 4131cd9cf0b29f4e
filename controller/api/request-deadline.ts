import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';

/** Aborts one generation with deadline-exceeded when it, waiting included, took too long. Clear the timer when it has ended. */
export function startRequestDeadline(abort: AbortController): NodeJS.Timeout {
  return setTimeout(() => {
    const message = `the request took longer than ${limits.requestDeadlineMs} ms`;
    abort.abort(new HelsError('deadline-exceeded', message));
  }, limits.requestDeadlineMs);
}

/** Of a client that took nothing of its stream for the time it may. */
export function readerStalled(): HelsError {
  const message = `the client read nothing for ${limits.writeStallTimeoutMs} ms`;
  return new HelsError('deadline-exceeded', message);
}
