/** Which controller of a list is asked, and how often, over real connections to the real service. */
import { type AddressInfo, createServer } from 'node:net';
import { describe, expect, it, vi } from 'vitest';
import { HelsClient } from '../../../client/sdk/index.ts';
import { streamHandler } from '../../../controller/api/grpc/handlers.ts';
import { GrpcServer } from '../../../controller/api/grpc/server.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { serverCredentials } from '../../../proto/rpc/credentials.ts';
import { Authority, readCertificate } from '../../support/certificates.ts';
import { collect } from '../../support/daemons.ts';
import { clientOf, ends, FakeController, input, pair, sampled } from './fake-controllers.ts';

describe('a call that nobody has answered', () => {
  it('goes to the next address when nobody listens at the first, and stays there', async () => {
    const { leader, standby } = await pair();
    const client = clientOf([standby, leader]);
    expect((await client.status()).term).toBe(leader.port);
    await standby.serve();
    expect((await client.status()).term).toBe(leader.port);
  });

  it('waits for a takeover within its deadline', async () => {
    const { leader, standby } = await pair();
    await leader.die();
    const client = clientOf([leader, standby]);
    const refused = client.status({ deadlineMs: 700 });
    const message = expect.stringContaining(`tried ${leader.address}, ${standby.address} for `);
    await expect(refused).rejects.toMatchObject({ code: 'unreachable', message });
    setTimeout(() => void standby.serve(), 500);
    const answer = await collect(client.generate(input, sampled));
    expect(answer.tokenIds).toHaveLength(60);
  });

  it('fails at once when there is one address', async () => {
    const { standby } = await pair();
    // Whatever waited for a moment would wait for ever.
    vi.useFakeTimers({ toFake: ['setTimeout'] });
    ends.push(() => void vi.useRealTimers());
    await expect(collect(clientOf([standby]).generate(input))).rejects.toMatchObject({
      code: 'unreachable',
      message: expect.stringMatching(/^nothing answers at [^;]*$/),
    });
  });

  it('does not wait for a host that says nothing', async () => {
    const silent = createServer(() => undefined);
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    ends.push(() => void silent.close());
    const { port } = silent.address() as AddressInfo;
    const { leader } = await pair();
    const client = new HelsClient({ address: `127.0.0.1:${port},${leader.address}` });
    ends.push(() => client.close());
    expect((await client.status({ deadlineMs: 15_000 })).term).toBe(leader.port);
  });

  it('holds each certificate against the name under which its controller was dialled', async () => {
    const authority = new Authority();
    ends.push(() => authority.remove());
    const named = async (host: string, names: string) => {
      const identity = readCertificate(authority.issue('controller', { names }));
      return await new FakeController(host, serverCredentials(identity)).serve();
    };
    const first = await named('localhost', 'DNS:localhost');
    const second = await named('127.0.0.1', 'IP:127.0.0.1');
    const user = readCertificate(authority.issue('user'));
    const client = clientOf([first, second], user);
    expect((await client.status()).term).toBe(first.port);
    await first.die();
    expect((await client.status()).term).toBe(second.port);
  });
});

describe('a change that must not be made twice', () => {
  const asks: [string, (client: HelsClient) => Promise<unknown>][] = [
    ['undeploy', (client) => client.undeploy('fake')],
    ['replan', (client) => client.replan().next()],
  ];

  it.each(asks)('is asked of one controller only: %s', async (_, ask) => {
    const leader = await new FakeController().serve();
    const standby = await new FakeController().serve();
    leader.changing = () => leader.die().then(() => Promise.reject(new Error('dead')));
    const message = expect.stringMatching(/ may be done or not: look with helsctl status/);
    await expect(ask(clientOf([leader, standby]))).rejects.toMatchObject({
      code: 'unreachable',
      message,
    });
    expect([leader.changes, standby.changes]).toEqual([1, 0]);
  });

  it.each(asks)('goes to the next one when it was not sent, or refused: %s', async (_, ask) => {
    const { leader, standby } = await pair();
    const stopping = await new FakeController().serve();
    stopping.changing = () => Promise.reject(new HelsError('draining', 'stopping'));
    await ask(clientOf([standby, stopping, leader]));
    expect([standby.changes, stopping.changes, leader.changes]).toEqual([0, 1, 1]);
  });

  it.each(asks)('fails at once, and plainly, when nobody listens: %s', async (_, ask) => {
    const { standby } = await pair();
    const message = expect.stringMatching(/^nothing answers at [^;]*$/);
    await expect(ask(clientOf([standby]))).rejects.toMatchObject({ message });
  });
});

describe('a deadline', () => {
  it.each([Number.NaN, -1, '50', null])('is a number from 0 on, not %o', async (deadlineMs) => {
    const { leader } = await pair();
    const client = clientOf([leader]);
    // Over a connection that stands: gRPC.js then throws where nobody can catch it.
    await client.status();
    const call = { deadlineMs: deadlineMs as number };
    const refused = {
      ...{ code: 'request-invalid', field: 'deadlineMs' },
      message: expect.stringMatching(/^deadlineMs: .* is not a number from 0 on; leave it out/),
    };
    await expect(client.status(call)).rejects.toMatchObject(refused);
    await expect(collect(client.generate(input, {}, call))).rejects.toMatchObject(refused);
    await expect(client.replan({}, call).next()).rejects.toMatchObject(refused);
  });

  it.each([2 ** 31, 30 * 86_400_000, 1e12, Number.MAX_SAFE_INTEGER, Infinity])(
    'may lie as far ahead as %d ms',
    async (deadlineMs) => {
      const { leader } = await pair();
      const client = clientOf([leader]);
      expect((await client.status({ deadlineMs })).term).toBe(leader.port);
      const answer = await collect(client.generate(input, sampled, { deadlineMs }));
      expect(answer.tokenIds).toHaveLength(60);
    },
  );
});

it('one signal is for many calls at once, without a warning', async () => {
  const { leader } = await pair();
  const client = clientOf([leader]);
  const { signal } = new AbortController();
  const warned = vi.fn();
  process.on('warning', warned);
  ends.push(() => void process.off('warning', warned));
  const calls = Array.from({ length: 20 }, () =>
    collect(client.generate(input, sampled, { signal })),
  );
  for (const { tokenIds } of await Promise.all(calls)) expect(tokenIds).toHaveLength(60);
  expect(warned).not.toHaveBeenCalled();
});

it('what a controller says of a call that it ends is what the caller gets', async () => {
  const told = new HelsError('cancelled', 'another deployment took its place: deploying /m');
  const Deploy = streamHandler(async function* () {
    yield { progress: { phase: 'waiting' } };
    throw told;
  });
  const server = new GrpcServer({ Deploy } as unknown as HelsHandlers, {} as RegistryHandlers);
  const port = await server.listen('127.0.0.1:0', serverCredentials(null));
  const client = new HelsClient({ address: `127.0.0.1:${port}` });
  ends.push(
    () => server.close(0),
    () => client.close(),
  );
  const events = client.deploy({ modelPath: '/m' });
  await events.next();
  await expect(events.next()).rejects.toMatchObject({ code: told.code, message: told.message });
});

describe('a client that is closed', () => {
  it('refuses calls and connects to nobody', async () => {
    const { leader } = await pair();
    const client = clientOf([leader]);
    client.close();
    const refused = {
      code: 'cancelled',
      message: expect.stringMatching(/closed; make a new one$/),
    };
    await expect(client.status()).rejects.toMatchObject(refused);
    await expect(client.undeploy('fake')).rejects.toMatchObject(refused);
    await expect(collect(client.generate(input))).rejects.toMatchObject(refused);
    expect(leader.asked).toEqual([]);
  });
});
