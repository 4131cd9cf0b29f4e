/** Mutual TLS between the built programs: who shows a certificate of the authority takes part, everybody else is told why not. */
import { readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalProcess } from '../../client/helsctl/local-process.ts';
import { HelsClient, type HelsClientOptions } from '../../client/sdk/index.ts';
import { WorkerService } from '../../proto/rpc/definitions.ts';
import {
  Authority,
  type Certificate,
  readCertificate,
  tlsOptions,
} from '../support/certificates.ts';
import { eventually, within } from '../support/deadline.ts';
import { helsctl, startHelsctl } from '../support/helsctl-process.ts';
import { answerOf, Daemons, deploy } from './controller-restart.contract.ts';

const startDeadlineMs = 30_000;

let authority: Authority;
let stranger: Authority;
let daemons: Daemons;
let controller: LocalProcess;
let address: string;
let user: Certificate;

const worker = (id: string, ...parameters: string[]) =>
  daemons.start('worker/main', ['--id', id, '--controller', address, ...parameters]);

/** What its log says once the worker has failed to register. */
const refusalOf = (refused: LocalProcess) =>
  eventually(
    startDeadlineMs,
    'the refusal of a worker',
    () => /the controller does not answer.*/.exec(refused.logTail())?.at(0) ?? null,
  );

async function failureOf(
  tls: NonNullable<HelsClientOptions['tls']> | null,
): Promise<{ code: string; message: string }> {
  const client = new HelsClient({ address, ...(tls === null ? {} : { tls }) });
  try {
    await client.status();
  } catch (error) {
    return error as Error & { code: string };
  } finally {
    client.close();
  }
  throw new Error('the controller answered');
}

beforeAll(async () => {
  authority = new Authority();
  stranger = new Authority();
  daemons = new Daemons();
  user = authority.issue('user', { usages: 'clientAuth' });
  controller = daemons.start('controller/main', [
    ...['--http', '127.0.0.1:0', '--grpc', 'localhost:0'],
    ...['--data-dir', join(daemons.directory, 'store')],
    ...tlsOptions(authority.issue('controller')),
  ]);
  address = (await controller.listening(startDeadlineMs)).grpc ?? '';
  // By name and by address: the certificate has both.
  for (const [index, listen] of ['localhost:0', '127.0.0.1:0'].entries()) {
    const parameters = ['--listen', listen, ...tlsOptions(authority.issue(`worker-${index}`))];
    await worker(`worker-${index}`, ...parameters).listening(startDeadlineMs);
  }
});

afterAll(async () => {
  await daemons?.stop();
  authority?.remove();
  stranger?.remove();
});

describe('with certificates of one authority', () => {
  it('workers register, a model is deployed over two ranks, and answers', async () => {
    const client = new HelsClient({ address, tls: readCertificate(user) });
    try {
      await eventually(startDeadlineMs, 'both workers', async () => {
        const { workers } = await client.status();
        return workers.length === 2;
      });
      const half = { ffnWeight: 1, headGroups: 4 };
      const ranks = ['worker-0', 'worker-1'].map((workerId) => ({ workerId, ...half }));
      await deploy(client, { workersMin: 2, ranks });
      expect((await client.plan()).plan?.ranks).toHaveLength(2);
      expect((await answerOf(client)).length).toBeGreaterThan(0);
    } finally {
      client.close();
    }
  }, 90_000);

  it('helsctl asks with its options, and with variables', async () => {
    const { exitCode, stdout } = await helsctl(
      ...['--address', address, ...tlsOptions(user), '--json', 'status'],
    );
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout).workers).toHaveLength(2);
    const variables = { HELS_TLS_CA: user.authority, HELS_TLS_CERT: user.certificate };
    const { ended } = startHelsctl(['--address', address, 'status'], {
      environment: { ...variables, HELS_TLS_KEY: user.key },
    });
    expect((await ended).exitCode).toBe(0);
  });
});

describe('controller and workers refuse', () => {
  it('who comes without TLS', async () => {
    expect(await failureOf(null)).toMatchObject({
      code: 'unreachable',
      message: expect.stringMatching(/closed the connection at once; if it has TLS, .*--tls-ca/),
    });
    const { exitCode, stderr } = await helsctl('--address', address, 'status');
    expect({ exitCode, hint: stderr.includes('--tls-cert') }).toEqual({ exitCode: 5, hint: true });
    expect(await refusalOf(worker('plain'))).toContain('if it has TLS');
  });

  it('who comes without TLS to a worker', async () => {
    const client = new HelsClient({ address, tls: readCertificate(user) });
    const [member] = (await client.status()).workers;
    client.close();
    const stub = new WorkerService(member?.address ?? '', credentials.createInsecure());
    const refused = new Promise((_, reject) => {
      stub.describe({}, { deadline: Date.now() + 10_000 }, (error) => reject(error));
    });
    await expect(refused).rejects.toThrow('UNAVAILABLE');
    stub.close();
  });

  it('who shows no certificate', async () => {
    const { authority: ca } = readCertificate(user);
    expect(await failureOf({ authority: ca })).toMatchObject({
      code: 'denied',
      message: expect.stringContaining('certificate required'),
    });
  });

  it('who shows a certificate of another authority', async () => {
    const { certificate, key } = readCertificate(stranger.issue('user'));
    const { authority: ca } = readCertificate(user);
    const { message } = await failureOf({ authority: ca, certificate, key });
    expect(message).toContain('certificates of one authority');
  });
});

describe('nobody is taken in', () => {
  it('by a controller of another authority', async () => {
    const other = stranger.issue('user');
    const { exitCode, stderr } = await helsctl(
      ...['--address', address, ...tlsOptions(other), 'status'],
    );
    expect(stderr).toMatch(/no TLS connection to localhost:\d+: .*certificate/);
    expect(exitCode).toBe(6);
    expect(await refusalOf(worker('other', ...tlsOptions(other)))).toContain('no TLS connection');
  });

  it('by a controller whose certificate names another host', async () => {
    const tls = tlsOptions(authority.issue('elsewhere', { names: 'DNS:elsewhere' }));
    const impostor = daemons.start('controller/main', [
      ...['--http', '127.0.0.1:0', '--grpc', 'localhost:0'],
      ...['--data-dir', join(daemons.directory, 'impostor'), ...tls],
    ]);
    const { grpc = '' } = await impostor.listening(startDeadlineMs);
    const { exitCode, stderr } = await helsctl('--address', grpc, ...tlsOptions(user), 'status');
    expect(stderr).toMatch(/Hostname\/IP does not match certificate's altnames/);
    expect(exitCode).toBe(6);
  });

  it('by a server without TLS', async () => {
    const plain = await daemons.controller(['--data-dir', join(daemons.directory, 'plain')]);
    const { exitCode, stderr } = await helsctl(
      ...['--address', plain.grpc, ...tlsOptions(user), 'status'],
    );
    expect(stderr).toContain('no TLS connection');
    expect(exitCode).toBe(6);
  });
});

describe('HTTPS', () => {
  const httpsController = (name: string, http: string, { certificate, key }: Certificate) =>
    daemons.start('controller/main', [
      ...['--http', http, '--http-tls-cert', certificate, '--http-tls-key', key],
      ...['--grpc', '127.0.0.1:0', '--data-dir', join(daemons.directory, name)],
    ]);

  /** fetch takes no authority of its own. */
  const statusOf = (url: string, ca: Buffer) =>
    new Promise<number>((resolve, reject) => {
      get(url, { ca }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      }).on('error', reject);
    });

  it('serves the API, also beyond loopback, to who trusts its authority; nothing in plain text', async () => {
    const server = authority.issue('http', { usages: 'serverAuth' });
    const secure = httpsController('https', '0.0.0.0:0', server);
    const { http = '' } = await secure.listening(startDeadlineMs);
    const address = http.replace('0.0.0.0', '127.0.0.1');
    const [trusted, other] = [authority, stranger].map(({ file }) => readFileSync(file));
    expect(await statusOf(`https://${address}/health`, trusted ?? Buffer.alloc(0))).toBe(200);
    const refused = statusOf(`https://${address}/health`, other ?? Buffer.alloc(0));
    await expect(refused).rejects.toThrow('certificate');
    await expect(fetch(`http://${address}/health`)).rejects.toThrow();
    expect(secure.logTail()).not.toContain('NO TLS');
  });

  it('is refused with files that are wrong, before anything listens', async () => {
    const wrong = httpsController('wrong', '127.0.0.1:0', user);
    expect(await within(startDeadlineMs, 'its end', wrong.exited)).toBe(3);
    expect(wrong.logTail()).toMatch(/--http-tls-cert is '.*'; its extended key usage lacks server/);
  });
});

describe('what is wrong with the files is said before anything listens', () => {
  async function endOf(certificate: Certificate): Promise<string> {
    const refused = worker('wrong', ...tlsOptions(certificate));
    expect(await within(startDeadlineMs, 'its end', refused.exited)).toBe(3);
    return refused.logTail();
  }

  it.each<[string, () => Partial<Certificate>, string]>([
    ['a file that is missing', () => ({ key: '/no/such.key' }), "--tls-key is '/no/such.key'"],
    ['a key of another certificate', () => ({ key: user.key }), 'it is not the key of --tls-cert'],
    [
      'a certificate of another authority',
      () => ({ ...stranger.issue('worker'), authority: authority.file }),
      'no authority in --tls-ca',
    ],
    ['one that may not serve', () => user, 'its extended key usage lacks serverAuth'],
    [
      'one that is over',
      () =>
        authority.issue('old', {
          validity: { fromDate: '20200101000000Z', toDate: '20200201000000Z' },
        }),
      'it is valid from Jan  1 00:00:00 2020 GMT to Feb  1 00:00:00 2020 GMT',
    ],
    ['no PEM at all', () => ({ authority: join(daemons.directory, 'text') }), 'holds no certif'],
  ])('%s', async (_, wrong, message) => {
    writeFileSync(join(daemons.directory, 'text'), 'no certificate');
    expect(await endOf({ ...authority.issue('worker'), ...wrong() })).toContain(message);
  });
});
