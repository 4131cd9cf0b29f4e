import { HelsError } from '../domain/errors.ts';

/** Of an `error` of stdout: null when its reader has ended (`| head`), which is no failure; else what there is to say, a full disk for example. */
export function outputFailure(error: NodeJS.ErrnoException): HelsError | null {
  if (error.code === 'EPIPE') return null;
  return new HelsError('internal', `the output cannot be written: ${error.message}`);
}
