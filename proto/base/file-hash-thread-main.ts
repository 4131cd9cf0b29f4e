/** Entry of the thread that hashes large files. */
import { sha256Here } from './file-hash.ts';
import { serveJobs } from './job-thread.ts';

serveJobs(sha256Here);
