import * as grpc from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { sleep } from '../../../proto/base/clock.ts';
import type { Logger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { RegistryService } from '../../../proto/rpc/definitions.ts';
import { toServiceError } from '../../../proto/rpc/status.ts';
import { Registration } from '../../../worker/daemon/registration.ts';
import { eventually } from '../../support/deadline.ts';

vi.mock('../../../proto/base/clock.ts', { spy: true });

/** A registry on loopback that a test can take away and bring back. */
class FakeController {
  readonly calls: string[] = [];
  heartbeatIntervalMs = 60;
  known = true;
  /** What it answers to Register. */
  refusal: HelsError | null = null;
  port = 0;
  #server: grpc.Server | null = null;

  async start(): Promise<void> {
    const server = new grpc.Server();
    this.#server = server;
    const handle =
      (name: string, response: () => object): grpc.handleUnaryCall<object, object> =>
      (_, callback) => {
        this.calls.push(name);
        callback(null, response());
      };
    const register = handle('register', () => ({
      term: 1,
      heartbeatIntervalMs: this.heartbeatIntervalMs,
    }));
    server.addService(RegistryService.service, {
      Register: ((call, callback) => {
        if (this.refusal !== null) callback(toServiceError(this.refusal));
        else register(call, callback);
      }) as grpc.handleUnaryCall<object, object>,
      Heartbeat: handle('heartbeat', () => ({ known: this.known, term: 1 })),
      Deregister: handle('deregister', () => ({})),
    } as unknown as grpc.UntypedServiceImplementation);
    this.port = await new Promise<number>((resolve, reject) => {
      const address = `127.0.0.1:${this.port}`;
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      );
    });
  }

  stop(): void {
    this.#server?.forceShutdown();
  }

  count(name: string): number {
    return this.calls.filter((call) => call === name).length;
  }
}

describe('registration', () => {
  const waitMs = 15_000;
  const ends: (() => Promise<void> | void)[] = [];
  beforeEach(() => {
    vi.mocked(sleep).mockClear();
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  function register(...controllers: FakeController[]) {
    const warnings: string[] = [];
    const log = {
      info: () => undefined,
      warn: (message: string) => warnings.push(message),
    } as unknown as Logger;
    const identity = { workerId: 'w', incarnation: 'i' };
    const registration = new Registration({
      controllers: controllers.map(({ port }) => `127.0.0.1:${port}`),
      credentials: grpc.credentials.createInsecure(),
      log,
      random: () => 0,
      registerRequest: () => identity,
      heartbeatRequest: () => identity,
    });
    registration.start();
    return { registration, warnings };
  }

  async function started(): Promise<FakeController> {
    const controller = new FakeController();
    await controller.start();
    ends.push(() => controller.stop());
    return controller;
  }

  const reached = (controller: FakeController, name: string, count: number) =>
    eventually(waitMs, `${count} x ${name}`, () => controller.count(name) >= count);

  it('registers once, then sends heartbeats, and says goodbye once', async () => {
    const controller = await started();
    const { registration } = register(controller);
    await reached(controller, 'heartbeat', 3);
    expect(controller.count('register')).toBe(1);
    await registration.stop('drain');
    expect(controller.calls.at(-1)).toBe('deregister');
    expect(controller.count('deregister')).toBe(1);
  });

  it('registers again when the controller does not know it', async () => {
    const controller = await started();
    const { registration } = register(controller);
    ends.push(() => registration.stop('test'));
    await reached(controller, 'heartbeat', 1);
    controller.known = false;
    await reached(controller, 'register', 2);
    controller.known = true;
    const beats = controller.count('heartbeat');
    await reached(controller, 'heartbeat', beats + 2);
  });

  it('survives a controller that is away, warns once per outage, and comes back by itself', async () => {
    const controller = await started();
    const { registration, warnings } = register(controller);
    ends.push(() => registration.stop('test'));
    await reached(controller, 'heartbeat', 1);
    controller.stop();
    await eventually(waitMs, 'the warning', () => warnings.length > 0);
    const { calls } = vi.mocked(sleep).mock;
    const failures = calls.length;
    await eventually(waitMs, 'more attempts', () => calls.length >= failures + 2);
    expect(warnings).toHaveLength(1);
    const beats = controller.count('heartbeat');
    await controller.start();
    await reached(controller, 'heartbeat', beats + 2);
    expect(warnings).toHaveLength(1);
  });

  it('goes round the list when its controller is lost, and registers with the one that answers', async () => {
    const [leader, standby] = [await started(), await started()];
    // Between the two: nobody listens there, ever.
    const gone = await started();
    gone.stop();
    standby.stop();
    standby.known = false;
    const { registration, warnings } = register(leader, gone, standby);
    ends.push(() => registration.stop('test'));
    await reached(leader, 'heartbeat', 1);
    leader.stop();
    await eventually(waitMs, 'the warning', () => warnings.length > 0);
    await standby.start();
    await reached(standby, 'register', 1);
    standby.known = true;
    await reached(standby, 'heartbeat', 3);
    expect(warnings).toHaveLength(1);
    await leader.start();
    const beats = standby.count('heartbeat');
    const known = leader.calls.length;
    await reached(standby, 'heartbeat', beats + 3);
    expect(leader.calls).toHaveLength(known);
  });

  it('says once that its name is taken, although others of the list do not answer, and tries on', async () => {
    const [leader, gone] = [await started(), await started()];
    gone.stop();
    leader.refusal = new HelsError('denied', 'a worker of this name is there', {
      field: 'worker_id',
    });
    const { registration, warnings } = register(gone, leader);
    ends.push(() => registration.stop('test'));
    await eventually(waitMs, 'both warnings', () => warnings.length === 2);
    leader.refusal = null;
    await reached(leader, 'heartbeat', 1);
    expect(warnings).toEqual([
      'the controller does not answer; trying on',
      'the controller refuses this worker; trying on',
    ]);
  });

  it('does not let a nonsense interval flood the controller', async () => {
    const controller = new FakeController();
    controller.heartbeatIntervalMs = 0;
    await controller.start();
    ends.push(() => controller.stop());
    const { registration } = register(controller);
    ends.push(() => registration.stop('test'));
    await reached(controller, 'heartbeat', 3);
    // Told to come back at once, it waits each time.
    const waits = vi.mocked(sleep).mock.calls.map(([ms]) => ms);
    expect(waits.slice(0, 3)).toEqual([50, 50, 50]);
  });

  it('stops within its deadlines although nobody answers', async () => {
    const controller = await started();
    controller.stop();
    const { registration, warnings } = register(controller);
    await registration.stop('drain');
    expect(warnings.at(-1)).toContain('goodbye');
  });
});
