/** Entry of a thread that does what the test of job-thread.ts asks for. */
import { threadId } from 'node:worker_threads';
import { serveJobs } from '../../../proto/base/job-thread.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

export type Job = 'id' | 'refuse' | 'fail' | 'exit' | 'break' | 'hang';

serveJobs((job: Job): number | Promise<number> => {
  if (job === 'refuse') throw new HelsError('config-invalid', 'no', { field: 'f' });
  if (job === 'fail') throw new TypeError('a fault');
  if (job === 'exit') process.exit(3);
  if (job === 'break') {
    // Not of the job itself.
    setImmediate(() => {
      throw new Error('broke');
    });
  }
  return job === 'id' ? threadId : new Promise(() => undefined);
});
