import { HelsError, toHelsError } from '../../proto/domain/errors.ts';

/** What was thrown in the loop. */
export function ourFault(cause: unknown): HelsError {
  const message = `a fault of the controller: ${toHelsError(cause).message}`;
  return new HelsError('internal', message, { cause });
}

/** What ranks say has no cause here. */
export function isOurFault({ code, cause }: HelsError): boolean {
  return code === 'internal' && cause !== undefined;
}
