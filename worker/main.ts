#!/usr/bin/env node
/** The worker daemon: reads its configuration, starts, and stops on SIGTERM or SIGINT, or with what started it. */
import { randomUUID } from 'node:crypto';
import { CommanderError } from 'commander';
import { onLifelineEnd } from '../proto/base/lifeline.ts';
import { createLogger } from '../proto/base/log.ts';
import { readTlsIdentity } from '../proto/base/tls.ts';
import { version } from '../proto/base/version.ts';
import { exitCodeOf, toHelsError } from '../proto/domain/errors.ts';
import { nativeVersion, onDeviceLost } from './binding/native.ts';
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
  let stopping = false;
  const stop = (exitCode: number) => {
    if (stopping) return;
    stopping = true;
    daemon.stop().then(
      () => process.exit(exitCode),
      (error: unknown) => {
        log.error('did not stop cleanly', { error: String(error) });
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(1);
      log.info('stopping', { reason: signal });
      stop(0);
    });
  }
  onLifelineEnd(() => {
    log.info('stopping', { reason: 'the end of what started it' });
    stop(0);
  });
  // Only a new process gets the device back: whoever runs this one (systemd) starts another, which registers anew.
  onDeviceLost((error) => {
    if (stopping) return;
    log.error('the device is lost, this process ends', { error: error.message });
    stop(1);
  });
}

try {
  await run();
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode);
  const failure = toHelsError(error);
  process.stderr.write(`hels-worker: ${failure.message}\n`);
  process.exit(exitCodeOf[failure.code]);
}
