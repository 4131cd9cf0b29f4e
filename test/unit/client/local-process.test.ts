import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addUpCommands } from '../../../client/helsctl/commands/up.ts';
import type { Context } from '../../../client/helsctl/context.ts';
import { LocalProcess } from '../../../client/helsctl/local-process.ts';

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-local-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

it('a daemon that ends is told with the end of its own log, not with what earlier ones wrote', async () => {
  const entry = join(directory, 'daemon.mjs');
  const log = join(directory, 'daemon.log');
  writeFileSync(entry, "console.error('address\u00a0is wrong'); process.exitCode = 3;");
  writeFileSync(log, 'the port is taken, in an eärlier life\n');
  const daemon = new LocalProcess('daemon', entry, [], log);
  await expect(daemon.listening(20_000)).rejects.toMatchObject({
    code: 'config-invalid',
    message: 'daemon exited (3); the end of its log:\naddress\u00a0is wrong',
  });
});

describe('helsctl up', () => {
  const up = async (...parameters: string[]) => {
    const program = new Command().option('--json', '', true);
    const { signal } = new AbortController();
    addUpCommands(program, { signal } as Context);
    await program.parseAsync(['up', '--data-dir', directory, ...parameters], { from: 'user' });
  };

  it.each([
    ['--http', 'foo', "--http is 'foo'; write HOST:PORT with a port from 0"],
    ['--http', '0.0.0.0:0', "--http is '0.0.0.0:0'; it is not a loopback address"],
    ['--grpc', '10.0.0.1:7070', "--grpc is '10.0.0.1:7070'; it is not a loopback address"],
  ])('refuses %s %s before it starts anything', async (option, value, message) => {
    await expect(up(option, value)).rejects.toMatchObject({
      code: 'config-invalid',
      message: expect.stringContaining(message),
    });
  });
});
