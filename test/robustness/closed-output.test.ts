/** What reads the output may end first (`helsctl ... | head`): helsctl ends too, without the trace of an exception. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test, vi } from 'vitest';
import { fixtureModel } from '../support/daemons.ts';
import { helsctlProgram } from '../support/helsctl.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const run = promisify(execFile);

test.each([
  ['--help'],
  ['model', 'inspect', '--model', fixtureModel('llama-gqa'), '--json'],
  ['model', 'inspect', '--model', fixtureModel('llama-gqa')],
])('helsctl %s %s', async (...parameters) => {
  // `true` is gone long before helsctl, a Node program, has anything to write.
  const script = '"$0" "$@" | true';
  const { stderr } = await run(
    'sh',
    ['-c', script, process.execPath, helsctlProgram, ...parameters],
    {
      timeout: 60_000,
    },
  );
  expect(stderr).not.toContain('EPIPE');
  expect(stderr).not.toMatch(/^ +at /m);
});
