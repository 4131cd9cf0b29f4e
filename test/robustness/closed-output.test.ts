/** What reads the output may end first (`helsctl ... | head`), or be full: helsctl ends too, without the trace of an exception. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test, vi } from 'vitest';
import { bundledModel, fixtureModel } from '../support/daemons.ts';
import { helsctlProgram } from '../support/helsctl.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const run = promisify(execFile);
const cluster = fileURLToPath(
  new URL('../../deploy/examples/mixed-workstation.yaml', import.meta.url),
);

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

test.each([
  ['--help'],
  ['model', 'inspect', '--model', fixtureModel('llama-gqa')],
  ['plan', '--cluster', cluster, '--model', bundledModel, '--json'],
])('helsctl %s %s on a full disk says so', async (...parameters) => {
  const script = '"$0" "$@" > /dev/full';
  const ended = await run('sh', ['-c', script, process.execPath, helsctlProgram, ...parameters], {
    timeout: 60_000,
  }).catch((error: { code: number; stderr: string }) => error);
  expect(ended).toMatchObject({ code: 1 });
  expect(ended.stderr).toContain('the output cannot be written');
  expect(ended.stderr).not.toMatch(/^ +at /m);
});
