/** A controller is replaced by another one on the same state: what was deployed comes back by itself and answers the same. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LocalProcess } from '../../client/helsctl/local-process.ts';
import { programPath } from '../../client/helsctl/program-path.ts';
import { type DeployOptions, HelsClient } from '../../client/sdk/index.ts';
import { bundledModel, bundledModelId } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';

const startDeadlineMs = 30_000;
const stopDeadlineMs = 15_000;
const readyDeadlineMs = 120_000;

interface RunningController {
  process: LocalProcess;
  grpc: string;
  http: string;
  client: HelsClient;
  stop(): Promise<void>;
}

/** Daemons of one test, in one directory; all are stopped at its end. */
export class Daemons {
  readonly directory = mkdtempSync(join(tmpdir(), 'hels-restart-'));
  readonly #started: LocalProcess[] = [];
  readonly #clients: HelsClient[] = [];

  constructor() {
    mkdirSync(join(this.directory, 'logs'));
  }

  start(program: 'controller/main' | 'worker/main', parameters: string[]): LocalProcess {
    const name = `${program.replace('/main', '')}-${this.#started.length}`;
    const log = join(this.directory, 'logs', `${name}.log`);
    const started = new LocalProcess(name, programPath(program), parameters, log);
    this.#started.push(started);
    return started;
  }

  async controller(storeParameters: string[], grpc = '127.0.0.1:0'): Promise<RunningController> {
    const process = this.start('controller/main', [
      ...['--http', '127.0.0.1:0', '--grpc', grpc],
      ...storeParameters,
    ]);
    const listening = await process.listening(startDeadlineMs);
    const address = listening.grpc ?? '';
    const client = new HelsClient({ address });
    this.#clients.push(client);
    const stop = () => process.stop(stopDeadlineMs);
    return { process, grpc: address, http: listening.http ?? '', client, stop };
  }

  /** `controller`: one address, or several with commas. */
  async worker(controller: string, id = 'worker-0', device = 'cpu'): Promise<LocalProcess> {
    const parameters = ['--id', id, '--controller', controller, '--device', device];
    const worker = this.start('worker/main', parameters);
    await worker.listening(startDeadlineMs);
    return worker;
  }

  logs(): string {
    const folder = join(this.directory, 'logs');
    return readdirSync(folder)
      .map((name) => `${name}:\n${readFileSync(join(folder, name), 'utf8').slice(-2_000)}`)
      .join('\n');
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    await Promise.all(this.#started.map((started) => started.stop(stopDeadlineMs)));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export async function deploy(
  client: HelsClient,
  options: Partial<DeployOptions> = {},
): Promise<void> {
  const request = { modelPath: bundledModel, workersMin: 1, ...options };
  for await (const event of client.deploy(request)) {
    if (event.type === 'ready') return;
  }
  throw new Error('the deployment ended without a result');
}

export async function answerOf(client: HelsClient): Promise<number[]> {
  const tokenIds: number[] = [];
  const messages = [{ role: 'user' as const, content: 'What is Hels?' }];
  for await (const event of client.generate({ messages }, { maxTokens: 24 })) {
    if (event.type === 'delta') tokenIds.push(...event.tokenIds);
  }
  return tokenIds;
}

/** Without anybody deploying: until the model answers. */
export async function comesBack(daemons: Daemons, controller: RunningController) {
  try {
    return await eventually(readyDeadlineMs, 'the deployment', async () => {
      const ready = await fetch(`http://${controller.http}/ready`);
      await ready.body?.cancel();
      return ready.ok ? await answerOf(controller.client) : null;
    });
  } catch (error) {
    throw new Error(`${String(error)}\n${daemons.logs()}`);
  }
}

export function controllerRestartContract(
  storeParameters: (directory: string) => string[],
  ways: readonly ('stopped' | 'killed')[] = ['stopped', 'killed'],
): void {
  let daemons: Daemons;
  beforeEach(() => {
    daemons = new Daemons();
  });
  afterEach(async () => {
    await daemons.stop();
  });

  it.each(ways)(
    'brings the deployment back when the controller was %s',
    { timeout: 240_000 },
    async (way) => {
      const store = storeParameters(daemons.directory);
      const first = await daemons.controller(store);
      await daemons.worker(first.grpc);
      await deploy(first.client);
      const before = await answerOf(first.client);
      expect(before.length).toBeGreaterThan(0);
      const { term, epoch } = await first.client.status();
      if (way === 'stopped') await first.stop();
      else await first.process.stop(0);

      const second = await daemons.controller(store, first.grpc);
      expect(await comesBack(daemons, second)).toEqual(before);
      const status = await second.client.status();
      expect(status.term).toBeGreaterThan(term);
      expect(status.epoch).toBeGreaterThan(epoch);
    },
  );

  it('keeps a worker drained when another controller takes over', {
    timeout: 120_000,
  }, async () => {
    const store = storeParameters(daemons.directory);
    const first = await daemons.controller(store);
    await daemons.worker(first.grpc);
    // The store may have the deployment of a test before.
    await first.client.undeploy(bundledModelId).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'model-not-found' });
    });
    await eventually(readyDeadlineMs, 'the worker registers', async () => {
      return (await first.client.status()).workers.length === 1;
    });
    for await (const event of first.client.drain('worker-0')) {
      expect(event).toEqual({ type: 'done', replan: null, report: null });
    }
    await first.process.stop(0);

    const { client } = await daemons.controller(store, first.grpc);
    await eventually(readyDeadlineMs, 'the worker registers again', async () => {
      return (await client.status()).workers.some(({ drained }) => drained);
    });
    await expect(deploy(client, { workersTimeoutMs: 500 })).rejects.toThrow('beside 1 drained');
    await client.undrain('worker-0');
    await deploy(client);
  });
}
