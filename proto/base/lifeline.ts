/** A pipe from whoever started a daemon, on its standard input: it ends with that process, however that dies. */
import { fstatSync } from 'node:fs';

const variable = 'HELS_STOP_WITH_STDIN';

/** Of a child's environment: it is to stop when the pipe ends. */
export const lifelineEnvironment: Readonly<Record<string, string>> = { [variable]: '1' };

/** Calls `stop` once when the pipe ends, where there is one: a terminal or a file says nothing of whoever started us. */
export function onLifelineEnd(stop: () => void): void {
  if (process.env[variable] !== '1') return;
  const input = fstatSync(0);
  if (!input.isFIFO() && !input.isSocket()) return;
  const { stdin } = process;
  // A pipe that breaks closes, too.
  stdin.once('error', () => undefined).once('close', stop);
  stdin.resume();
}
