#!/usr/bin/env node
/** The worker daemon: reads its configuration, starts, and stops on SIGTERM or SIGINT. */
import { randomUUID } from 'node:crypto';
import { CommanderError } from 'commander';
import { createLogger } from '../proto/base/log.ts';
import { readTlsIdentity } from '../proto/base/tls.ts';
import { version } from '../proto/base/version.ts';
import { exitCodeOf, toHelsError } from '../proto/domain/errors.ts';
import { nativeVersion } from './binding/native.ts';
import { parseWorkerConfig, plaintextWarnings } from './daemon/config.ts';
import { Daemon } from './daemon/daemon.ts';

async function run(): Promise<void> {
  const config = parseWorkerConfig(process.argv.slice(2), version());
  const log = createLogger(config.id, config.logLevel);
  const identity = { workerId: config.id, incarnation: randomUUID(), version: version() };
  // Before anything is promised to a controller: a host without the addon is no worker.
  const native = nativeVersion();
  const tls = config.tls && readTlsIdentity(config.tls, ['server', 'client'], Date.now());
  for (const warning of plaintextWarnings(config)) log.warn(warning);
  const daemon = new Daemon({ config, tls, identity, log });
  const address = await daemon.start();
  log.info('listening', { address, device: config.device, ...native });
  process.stdout.write(`${JSON.stringify({ event: 'listening', address })}\n`);

  let signals = 0;
  const stop = (signal: NodeJS.Signals) => {
    signals += 1;
    if (signals > 1) process.exit(1);
    log.info('stopping', { signal });
    daemon.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error('did not stop cleanly', { error: String(error) });
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, stop);
}

try {
  await run();
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode);
  const failure = toHelsError(error);
  process.stderr.write(`hels-worker: ${failure.message}\n`);
  process.exit(exitCodeOf[failure.code]);
}
