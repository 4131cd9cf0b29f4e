import { join } from 'node:path';
import { makeDirectory } from '../../proto/base/make-directory.ts';
import { parseDeviceOption } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { HelsClient } from '../sdk/index.ts';
import { LocalProcess } from './local-process.ts';
import { programPath } from './program-path.ts';

export interface LocalClusterOptions {
  /** One worker process each, in this order. */
  devices: string[];
  dataDirectory: string;
  http: string;
  grpc: string;
  logLevel: string;
}

const startDeadlineMs = 20_000;
const stopDeadlineMs = 15_000;

/** One controller and its workers as processes on loopback: what `helsctl up` and `helsctl demo` run. */
export class LocalCluster {
  readonly httpUrl: string;
  readonly client: HelsClient;
  readonly grpcAddress: string;
  readonly logDirectory: string;
  readonly controller: LocalProcess;
  readonly workers: readonly LocalProcess[];

  private constructor(
    controller: LocalProcess,
    workers: LocalProcess[],
    http: string,
    grpc: string,
    logDirectory: string,
  ) {
    this.controller = controller;
    this.workers = workers;
    this.httpUrl = `http://${http}`;
    this.grpcAddress = grpc;
    this.logDirectory = logDirectory;
    this.client = new HelsClient({ address: grpc });
  }

  /** Throws what a daemon's log says when one does not come up; nothing is left running then. */
  static async start(options: LocalClusterOptions): Promise<LocalCluster> {
    for (const device of options.devices) parseDeviceOption(device);
    const logDirectory = join(options.dataDirectory, 'logs');
    try {
      makeDirectory(logDirectory);
    } catch (error) {
      const message = `${logDirectory} cannot be made: ${String(error)}; choose another --data-dir`;
      throw new HelsError('config-invalid', message, { field: '--data-dir' });
    }
    const start = (name: string, entry: string, parameters: string[]) =>
      new LocalProcess(
        name,
        entry,
        [...parameters, '--log-level', options.logLevel],
        join(logDirectory, `${name}.log`),
      );

    const started: LocalProcess[] = [];
    try {
      const controller = start('controller', programPath('controller/main'), [
        '--http',
        options.http,
        '--grpc',
        options.grpc,
        '--data-dir',
        join(options.dataDirectory, 'store'),
      ]);
      started.push(controller);
      const { http, grpc } = await controller.listening(startDeadlineMs);
      if (http === undefined || grpc === undefined) {
        throw new HelsError('internal', 'the controller did not say where it listens');
      }
      const workers = options.devices.map((device, index) =>
        start(`worker-${index}`, programPath('worker/main'), [
          '--id',
          `worker-${index}`,
          '--controller',
          grpc,
          '--listen',
          '127.0.0.1:0',
          '--device',
          device,
        ]),
      );
      started.push(...workers);
      await Promise.all(workers.map((worker) => worker.listening(startDeadlineMs)));
      return new LocalCluster(controller, workers, http, grpc, logDirectory);
    } catch (error) {
      await Promise.all(started.map((process) => process.stop(stopDeadlineMs)));
      throw error;
    }
  }

  /** Of every daemon by its name: controller, worker-0, worker-1 ... */
  get processIds(): Map<string, number> {
    const all = [this.controller, ...this.workers];
    return new Map(all.map(({ name, processId }) => [name, processId]));
  }

  /** Resolves to the name of the first daemon that ends by itself. */
  firstExit(): Promise<LocalProcess> {
    const all = [this.controller, ...this.workers];
    return Promise.race(
      all.map(async (process) => {
        await process.exited;
        return process;
      }),
    );
  }

  /** The controller first, so that it drains its requests while the workers still compute. */
  async stop(): Promise<void> {
    this.client.close();
    await this.controller.stop(stopDeadlineMs);
    await Promise.all(this.workers.map((worker) => worker.stop(stopDeadlineMs)));
  }
}
