/** A real etcd, plain or with mutual TLS, of Debian's etcd-server on free loopback ports with its own data directory. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Certificate } from './certificates.ts';
import { eventually } from './deadline.ts';
import { freePort } from './free-port.ts';

const startDeadlineMs = 30_000;

export class EtcdServer {
  readonly url: string;
  readonly port: number;
  readonly #directory: string;
  readonly #parameters: string[];
  /** Without TLS in any case. */
  readonly #healthUrl: string;
  #child: ChildProcess | null = null;

  private constructor(
    directory: string,
    [clientPort, peerPort, healthPort]: [number, number, number],
    tls: Certificate | null,
  ) {
    this.#directory = directory;
    this.port = clientPort;
    this.url = tls === null ? `http://127.0.0.1:${clientPort}` : `https://localhost:${clientPort}`;
    const listen = this.url.replace('localhost', '127.0.0.1');
    this.#healthUrl = `http://127.0.0.1:${healthPort}`;
    const peer = `http://127.0.0.1:${peerPort}`;
    this.#parameters = [
      ...['--name', 'test', '--data-dir', join(directory, 'data'), '--log-level', 'warn'],
      ...['--listen-client-urls', listen, '--advertise-client-urls', this.url],
      ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
      ...['--initial-cluster', `test=${peer}`, '--unsafe-no-fsync'],
      ...['--listen-metrics-urls', this.#healthUrl],
      ...(tls === null
        ? []
        : [
            ...['--cert-file', tls.certificate, '--key-file', tls.key],
            ...['--client-cert-auth', '--trusted-ca-file', tls.authority],
          ]),
    ];
  }

  /** With `tls` it answers only who shows a certificate of the same authority. */
  static async start(tls: Certificate | null = null): Promise<EtcdServer> {
    const directory = mkdtempSync(join(tmpdir(), 'hels-etcd-'));
    const ports = [await freePort(), await freePort(), await freePort()] as const;
    const server = new EtcdServer(directory, [...ports], tls);
    await server.run();
    return server;
  }

  /** Starts the process again on the same data and port; resolves when it answers. */
  async run(): Promise<void> {
    const log = openSync(join(this.#directory, 'etcd.log'), 'a');
    const child = spawn('etcd', this.#parameters, { stdio: ['ignore', log, log] });
    this.#child = child;
    const failed = new Promise<never>((_, reject) => {
      child.once('error', (error) =>
        reject(new Error(`etcd does not start (package etcd-server): ${error.message}`)),
      );
      child.once('exit', (code) => {
        if (this.#child === child) reject(new Error(`etcd ended (${code}): ${this.#log()}`));
      });
    });
    failed.catch(() => undefined);
    const healthy = eventually(startDeadlineMs, `etcd at ${this.url}`, async () => {
      const response = await fetch(`${this.#healthUrl}/health`);
      return (await response.text()).includes('"true"');
    });
    await Promise.race([healthy, failed]);
  }

  /** As a crash would end it. The data stay. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    this.#child = null;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await exited;
  }

  /** Forgets the history up to `revision`. */
  async compact(revision: number): Promise<void> {
    await this.#ask('kv/compaction', { revision: String(revision) });
  }

  /** Resolves when a lease of so long that nobody keeps alive has run out. */
  async leaseRunsOut(ttlMs: number): Promise<void> {
    const { ID } = await this.#ask('lease/grant', { TTL: ttlMs / 1000 });
    await eventually(10 * ttlMs, 'the end of the lease', async () => {
      return (await this.#ask('lease/timetolive', { ID })).TTL === '-1';
    });
  }

  async #ask(what: string, fields: object): Promise<{ ID?: string; TTL?: string }> {
    const body = JSON.stringify(fields);
    const response = await fetch(`${this.url}/v3/${what}`, { method: 'POST', body });
    if (!response.ok) throw new Error(`${what}: ${await response.text()}`);
    return (await response.json()) as { ID?: string; TTL?: string };
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #log(): string {
    return readFileSync(join(this.#directory, 'etcd.log'), 'utf8').slice(-2_000);
  }
}
