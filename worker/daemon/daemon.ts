/** One worker daemon: wires shard, service and registration, and stops them in order. */
import { sleep } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { modelDigest } from '../../proto/base/model-files.ts';
import type { TlsIdentity } from '../../proto/base/tls.ts';
import { showHostPort } from '../../proto/domain/host-port.ts';
import { channelCredentials, serverCredentials } from '../../proto/rpc/credentials.ts';
import { copyBandwidth, loadEngine, openProbe, openProfiler } from '../binding/native.ts';
import { ProbeHolder } from './collective-probe.ts';
import type { WorkerConfig } from './config.ts';
import {
  checkHostBytes,
  describeDevice,
  describeImplementation,
  engineDevice,
  measureDevice,
} from './device.ts';
import { NewestRun } from './newest-run.ts';
import { Registration } from './registration.ts';
import { WorkerServer } from './server.ts';
import { Shard } from './shard.ts';
import { type WorkerIdentity, workerHandlers } from './worker-service.ts';

/** Running steps may end by themselves this long after SIGTERM. */
const drainDeadlineMs = 5_000;
/** Then their answers may leave. */
const closeDeadlineMs = 1_000;

export interface DaemonOptions {
  config: WorkerConfig;
  /** null: plain text. */
  tls: TlsIdentity | null;
  identity: WorkerIdentity;
  log: Logger;
}

export class Daemon {
  readonly #shard: Shard;
  readonly #probe: ProbeHolder;
  readonly #server: WorkerServer;
  readonly #registration: Registration;
  readonly #options: DaemonOptions;
  #address = '';

  constructor(options: DaemonOptions) {
    const { config, tls, identity, log } = options;
    const atStart = measureDevice(config.device);
    checkHostBytes(config.device, atStart);
    const implementation = describeImplementation(config.device);
    const measured = (heldBytes: number) => {
      const now = measureDevice(config.device);
      const memoryAvailableBytes = now.memoryAvailableBytes + heldBytes;
      return describeDevice(config.device, atStart, { ...now, memoryAvailableBytes });
    };
    const device = () => ({ ...measured(0), implementation });
    const measuring = new NewestRun();
    this.#options = options;
    this.#shard = new Shard({
      workerId: identity.workerId,
      collectiveHost: config.advertise,
      engineDevice: engineDevice(config.device),
      threads: config.device.threads,
      speed: config.device.speed,
      memoryFreeBytes: (heldBytes) => measured(heldBytes).memoryFreeBytes,
      hostBytes: config.device.hostBytes,
      loadEngine,
      measuringEnded: () => measuring.idle(),
      modelDigest,
      nowMs: () => performance.now(),
    });
    this.#probe = new ProbeHolder(openProbe, config.advertise);
    this.#server = new WorkerServer(
      workerHandlers({
        identity,
        shard: this.#shard,
        measuring,
        probe: this.#probe,
        describeDevice: device,
        engineDevice: engineDevice(config.device),
        openProfiler,
        copyBandwidth,
        nowMs: () => performance.now(),
      }),
      serverCredentials(tls),
    );
    this.#registration = new Registration({
      controllers: config.controllers,
      credentials: channelCredentials(tls),
      log,
      random: Math.random,
      registerRequest: () => ({ ...identity, address: this.#address, device: device() }),
      heartbeatRequest: () => ({
        workerId: identity.workerId,
        incarnation: identity.incarnation,
        progress: this.#shard.stepsFinished,
        memoryFreeBytes: device().memoryFreeBytes,
      }),
    });
  }

  /** Resolves to the address under which others reach the service. */
  async start(): Promise<string> {
    const { config } = this.#options;
    const port = await this.#server.listen(config.listen);
    this.#address = showHostPort({ host: config.advertise, port });
    this.#registration.start();
    return this.#address;
  }

  /** Accepts nothing more, lets running steps end or fails them, says goodbye. Bounded by the deadlines above. */
  async stop(): Promise<void> {
    this.#shard.beginDrain();
    this.#probe.close();
    const goodbye = this.#registration.stop('drain');
    const deadline = performance.now() + drainDeadlineMs;
    while (this.#shard.state.stepsInFlight > 0 && performance.now() < deadline) await sleep(10);
    const { stepsInFlight } = this.#shard.state;
    if (stepsInFlight > 0)
      this.#options.log.warn('failing steps that did not end', { stepsInFlight });
    await Promise.race([this.#shard.close(), sleep(closeDeadlineMs)]);
    await this.#server.close(closeDeadlineMs);
    await goodbye;
  }
}
