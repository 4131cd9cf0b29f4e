/** Controller, two workers and a client on four hosts: each a network namespace whose loopback device is down. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { programPath } from '../../client/helsctl/program-path.ts';
import { bundledModel } from '../support/daemons.ts';
import {
  createTestNetwork,
  networkRefusal,
  type TestHost,
  type TestNetwork,
} from '../support/network-namespaces.ts';

const refusal = networkRefusal();
const helsctlEntry = fileURLToPath(new URL('../../dist/client/helsctl/main.js', import.meta.url));

let network: TestNetwork;
let directory: string;
const daemons: ChildProcess[] = [];

function spawnOn(host: TestHost, command: string[]): ChildProcess {
  return spawn('ip', ['netns', 'exec', host.namespace, ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Resolves once it says that it listens; throws what it says when it ends first. */
function startDaemon(host: TestHost, entry: string, parameters: string[]): Promise<void> {
  const child = spawnOn(host, [process.execPath, entry, ...parameters]);
  daemons.push(child);
  let log = '';
  child.stderr?.on('data', (piece) => {
    log += piece;
  });
  return new Promise((resolve, reject) => {
    if (child.stdout === null) throw new Error('no stdout');
    createInterface({ input: child.stdout }).once('line', () => resolve());
    child.once('exit', (code) => reject(new Error(`${entry} ended with ${code}: ${log}`)));
  });
}

/** Runs a command on the host until it ends; its stdout. */
function run(host: TestHost, command: string[], deadlineMs: number): Promise<string> {
  const child = spawnOn(host, command);
  const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (piece) => {
    stdout += piece;
  });
  child.stderr?.on('data', (piece) => {
    stderr += piece;
  });
  return new Promise((resolve, reject) => {
    child.once('close', (code) => {
      clearTimeout(timer);
      if (code === 0) resolve(stdout);
      else reject(new Error(`${command.join(' ')} ended with ${code}: ${stderr}`));
    });
  });
}

function host(index: number): TestHost {
  const found = network.hosts[index];
  if (found === undefined) throw new Error(`the network has no host ${index}`);
  return found;
}

describe.skipIf(refusal !== null)(`four hosts${refusal === null ? '' : ` (${refusal})`}`, () => {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'hels-hosts-'));
    network = createTestNetwork(4);
    const controller = host(0).address;
    await startDaemon(host(0), programPath('controller/main'), [
      ...['--http', `${controller}:8080`, '--grpc', `${controller}:7070`, '--insecure'],
      ...['--data-dir', directory],
    ]);
    await Promise.all(
      [1, 2].map((index) =>
        startDaemon(host(index), programPath('worker/main'), [
          ...['--id', `worker-${index}`, '--controller', `${controller}:7070`, '--device', 'cpu'],
          ...['--listen', '0.0.0.0:0', '--advertise', host(index).address, '--insecure'],
        ]),
      ),
    );
  });

  afterAll(async () => {
    for (const daemon of daemons) daemon.kill('SIGTERM');
    await Promise.all(
      daemons.map(async (daemon) => {
        if (daemon.exitCode !== null || daemon.signalCode !== null) return;
        await new Promise((resolve) => daemon.once('exit', resolve));
      }),
    );
    network?.remove();
    rmSync(directory, { recursive: true, force: true });
    expect(daemons.map(({ exitCode }) => exitCode)).toEqual(daemons.map(() => 0));
  });

  it('form a group, and answer a client on the fourth', async () => {
    const client = host(3);
    const controller = host(0).address;
    const helsctl = [process.execPath, helsctlEntry, '--address', `${controller}:7070`, '--json'];
    // Both workers compute: the collective crosses the network in every step.
    const split = ['--ranks', 'worker-1=3/1,worker-2=5/2', '--workers', '2'];
    const deployed = await run(
      client,
      [...helsctl, 'deploy', '--model', bundledModel, ...split],
      60_000,
    );
    const workers = JSON.parse(deployed).ranks.map(
      ({ workerId }: { workerId: string }) => workerId,
    );
    expect(workers).toEqual(['worker-1', 'worker-2']);
    const body = { prompt: 'What is Hels?', temperature: 0, max_tokens: 12, model: 'hels-tiny' };
    const ask = `fetch('http://${controller}:8080/v1/completions', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '${JSON.stringify(body)}' }).then((answer) => answer.text()).then(console.log)`;
    const answer = JSON.parse(await run(client, [process.execPath, '-e', ask], 20_000));
    expect(answer.usage.completion_tokens).toBeGreaterThan(0);
    expect(answer.choices[0].text.length).toBeGreaterThan(0);
    const status = JSON.parse(await run(client, [...helsctl, 'status'], 20_000));
    for (const { address } of status.workers) expect(address).toMatch(/^10\.98\.7\.[23]:/);
  }, 90_000);
});
