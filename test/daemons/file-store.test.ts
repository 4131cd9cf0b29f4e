import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { controllerRestartContract, Daemons } from './controller-restart.contract.ts';

describe('the embedded file store', () => {
  controllerRestartContract((directory) => ['--data-dir', join(directory, 'store')]);

  it('refuses a second controller on the same directory: exit code 3, the first undisturbed', async () => {
    const daemons = new Daemons();
    try {
      const store = ['--data-dir', join(daemons.directory, 'store')];
      const first = await daemons.controller(store);
      const second = daemons.start('controller/main', ['--http', '127.0.0.1:0', ...store]);
      expect(await second.exited).toBe(3);
      expect(second.logTail()).toMatch(
        /in use by process \d+; stop it, or choose another --data-dir/,
      );
      expect((await first.client.status()).term).toBeGreaterThan(0);
    } finally {
      await daemons.stop();
    }
  });

  it('says that its port is taken, with exit code 3 and not as a lost leadership', async () => {
    const daemons = new Daemons();
    try {
      const first = await daemons.controller(['--data-dir', join(daemons.directory, 'one')]);
      const second = daemons.start('controller/main', [
        ...['--http', '127.0.0.1:0', '--grpc', first.grpc],
        ...['--data-dir', join(daemons.directory, 'two')],
      ]);
      expect(await second.exited).toBe(3);
      expect(second.logTail()).toContain(`--grpc ${first.grpc}: cannot listen there`);
      expect(second.logTail()).not.toContain('leadership lost');
    } finally {
      await daemons.stop();
    }
  });
});
