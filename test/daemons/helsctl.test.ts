/** The commands a newcomer runs, as processes: what they print, their exit codes, and that nothing outlives them. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { programPath } from '../../client/helsctl/program-path.ts';
import { eventually } from '../support/deadline.ts';
import { helsctlProgram } from '../support/helsctl.ts';
import { helsctl, type RunningCommand, startHelsctl } from '../support/helsctl-process.ts';
import { Listener } from '../support/listener.ts';
import { isRunning } from '../support/processes.ts';

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-cli-'));
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

const demo = (...parameters: string[]) => startHelsctl(['demo', ...parameters]);
/** As on a site that fetches its packages through a proxy. */
const behind = ({ address }: Listener) => {
  const url = `http://${address}`;
  return { http_proxy: url, https_proxy: url, no_proxy: '', NO_PROXY: '' };
};

describe('demo', () => {
  it('answers over three unequal workers, shows the plan and leaves nothing behind', async () => {
    const { exitCode, stdout, stderr, started, left } = await demo().ended;
    expect(stderr).toContain('What is Hels?');
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/heterogeneity-aware/);
    for (const worker of ['worker-0', 'worker-1', 'worker-2']) {
      expect(stdout).toMatch(new RegExp(`^${worker} .*%.*ms`, 'm'));
    }
    expect(stdout).toMatch(/worker-1 .*speed 0\.4.*\(emulated\)/);
    expect(stderr).toMatch(/TTFT \d+\.\d ms, TPOT \d+\.\d ms/);
    // A log, not a flood.
    expect(stderr.match(/timing its kernels/g)?.length).toBeLessThanOrEqual(15);
    expect(stderr).not.toContain('\r');
    expect({ started, left }).toEqual({ started: 4, left: [] });
  }, 100_000);

  it('prints one JSON value with --json, and nothing else, wherever the environment names a proxy', async () => {
    const proxy = await Listener.start();
    const run = startHelsctl(['demo', '--json'], { environment: behind(proxy) });
    const { exitCode, stdout, stderr, started, left } = await run.ended;
    await proxy.close();
    const seen = { exitCode, stderr, asked: proxy.connections };
    expect(seen).toEqual({ exitCode: 0, stderr: '', asked: 0 });
    const { chat, report } = JSON.parse(stdout);
    expect(chat.text).toContain('Hels');
    expect(chat.ttftSeconds).toBeGreaterThan(0);
    expect(chat.tpotSeconds).toBeGreaterThan(0);
    expect(report.plan.ranks).toHaveLength(report.ranks.length);
    expect({ started, left }).toEqual({ started: 4, left: [] });
  }, 100_000);

  it('stopped in the middle leaves nothing running', async () => {
    const run = demo();
    await eventually(30_000, 'it measures', () =>
      run.printed().stderr.includes('timing its kernels'),
    );
    run.process.kill('SIGINT');
    const { exitCode, stderr, started, left } = await run.ended;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/error: .*SIGINT/);
    expect({ started, left }).toEqual({ started: 4, left: [] });
  }, 60_000);

  it('killed in the middle leaves nothing running for long: daemons end with what started them', async () => {
    const run = demo();
    await eventually(30_000, 'it measures', () =>
      run.printed().stderr.includes('timing its kernels'),
    );
    run.process.kill('SIGKILL');
    const { exitCode, started, left } = await run.ended;
    expect({ exitCode, started }).toEqual({ exitCode: null, started: 4 });
    await eventually(20_000, 'its daemons have ended', () => !left.some(isRunning));
  }, 60_000);
});

describe('up', () => {
  let run: RunningCommand | null = null;
  let address = '';

  afterAll(async () => {
    run?.process.kill('SIGINT');
    await run?.ended;
  });

  it('serves and prints where', async () => {
    const data = join(directory, 'up');
    const local = ['--http', '127.0.0.1:0', '--grpc', '127.0.0.1:0', '--data-dir', data];
    run = startHelsctl(['up', '--device', 'cpu', ...local]);
    const { printed, ended } = run;
    const line = () => /gRPC +(\S+)/.exec(printed().stderr);
    await Promise.race([eventually(60_000, 'it is up', () => line() !== null), ended]);
    address = line()?.[1] ?? '';
    expect(printed().stderr).toMatch(/OpenAI API +http:\/\/127\.0\.0\.1:\d+\/v1/);
    expect(printed().stderr).toMatch(/dashboard +http:\/\/127\.0\.0\.1:\d+/);
    const url = /OpenAI API +(\S+)/.exec(printed().stderr)?.[1];
    const models = await (await fetch(`${url}/models`)).json();
    expect(models).toMatchObject({ data: [{ id: 'hels-tiny' }] });
  }, 90_000);

  it('status, plan and chat look and ask with --json', async () => {
    const ask = async (...parameters: string[]) => {
      const { exitCode, stdout } = await helsctl('--address', address, '--json', ...parameters);
      expect(exitCode).toBe(0);
      return JSON.parse(stdout);
    };
    const status = await ask('status');
    expect(status).toMatchObject({ state: 'ready', modelId: 'hels-tiny' });
    expect(status.workers.map(({ workerId }: { workerId: string }) => workerId)).toEqual([
      'worker-0',
    ]);
    expect((await ask('plan')).plan.ranks).toHaveLength(1);
    const chat = await ask('chat', '-m', 'What is Hels?');
    expect(chat.text).toContain('Hels');
    expect(chat.completionTokens).toBeGreaterThan(1);
    expect(await ask('get', 'workers')).toMatchObject([{ workerId: 'worker-0', state: 'alive' }]);
    expect(await ask('get', 'model', 'hels-tiny')).toMatchObject({ state: 'ready' });
    expect(await ask('get', 'ranks')).toMatchObject([{ workerId: 'worker-0', rank: 0 }]);
    const bench = ['bench', '--requests', '3', '--streams', '2', '--prompt-tokens', '5'];
    expect(await ask(...bench, '--max-tokens', '4')).toMatchObject({
      requests: 3,
      failed: {},
      promptTokens: 15,
      outputTokens: 12,
    });
  });

  it('get and bench print tables for people', async () => {
    const workers = await helsctl('--address', address, 'get', 'workers');
    expect(workers.stdout).toMatch(/^worker +state +address.* version\nworker-0 +alive/);
    const unknown = await helsctl('--address', address, 'get', 'worker', 'worker-9');
    expect([unknown.exitCode, unknown.stderr]).toEqual([
      1,
      "error: workers: there is no 'worker-9'; there are: worker-0\n",
    ]);
    const drain = await helsctl('--address', address, 'drain', 'worker-9');
    expect([drain.exitCode, drain.stderr]).toEqual([
      1,
      "error: worker_id: no worker 'worker-9' is registered; registered: worker-0\n",
    ]);
    const bench = await helsctl('--address', address, 'bench', '--requests', '2');
    expect([bench.exitCode, bench.stdout]).toEqual([0, expect.stringMatching(/TTFT .* ms/)]);
  });

  it('events tell what happened, and without a model there are no ranks', async () => {
    const ask = async (...parameters: string[]) => {
      const { stdout } = await helsctl('--address', address, '--json', ...parameters);
      return JSON.parse(stdout);
    };
    await ask('undeploy', 'hels-tiny');
    const kinds = (await ask('events')).map(({ kind }: { kind: string }) => kind);
    expect(kinds).toEqual(['term', 'worker-joined', 'deployed', 'undeployed']);
    expect(await ask('get', 'ranks')).toEqual([]);
    expect(await ask('get', 'models')).toEqual([]);
  });

  it('ends with 0 and takes its daemons along when interrupted', async () => {
    run?.process.kill('SIGINT');
    const ended = await run?.ended;
    expect(ended).toMatchObject({ exitCode: 0, started: 2, left: [] });
  });
});

describe('version', () => {
  it('is printed alike by the command and the option', async () => {
    for (const json of [[], ['--json']]) {
      const command = await helsctl(...json, 'version');
      expect(await helsctl(...json, '--version')).toEqual(command);
      expect(command).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('hels') });
    }
  });
});

describe('exit codes', () => {
  it('5: nothing answers at the address', async () => {
    // Whatever still waited for a connection would keep the command for ever.
    const seconds = `const set = setTimeout; globalThis.setTimeout = (call, ms, ...given) => set(call, ms < 1000 ? ms : 2 ** 31 - 1, ...given);`;
    const environment = {
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(seconds)}`,
    };
    const parameters = ['--address', '127.0.0.1:1', 'status'];
    const { exitCode, stderr } = await startHelsctl(parameters, { environment }).ended;
    expect(stderr).toContain('127.0.0.1:1');
    expect(exitCode).toBe(5);
  });

  it.each([
    { parameters: ['fly'], names: 'fly' },
    { parameters: ['get', 'planets'], names: 'workers, models, ranks' },
    { parameters: ['bench', '--streams', '0'], names: '--streams' },
    { parameters: ['status', '--address', 'host'], names: "--address is 'host'; write HOST:PORT" },
    { parameters: ['deploy'], names: '--model' },
    { parameters: ['deploy', '--model', '.', '--ranks', 'worker-0:3'], names: '--ranks' },
    { parameters: ['chat', '-m', 'Hi', '--max-tokens', 'many'], names: '--max-tokens' },
    { parameters: ['chat', '-m', 'Hi', '--temperature', '2.1'], names: 'from 0 to 2' },
    { parameters: ['up', '--address', 'host:1'], names: '--address: this command calls no' },
    { parameters: ['--tls-ca', 'ca.pem', 'demo'], names: '--tls-ca: this command calls no' },
    { parameters: ['model', 'inspect', '--model', '.', '--address', 'a:1'], names: '--address' },
    { parameters: ['plan', '--input', '-', '--address', 'a:1'], names: '--address' },
  ])('2: $parameters is no command line', async ({ parameters, names }) => {
    const { exitCode, stderr } = await helsctl(...parameters);
    expect(stderr).toContain(names);
    expect(exitCode).toBe(2);
  });

  it('3: a variable that is no address', async () => {
    const environment = { HELS_ADDRESS: 'host' };
    const { exitCode, stderr } = await startHelsctl(['status'], { environment }).ended;
    expect(stderr).toContain("HELS_ADDRESS is 'host'; write HOST:PORT");
    expect(exitCode).toBe(3);
  });

  it.each([
    { parameters: ['--device', 'cpu', '--http', '192.0.2.1:1'], names: 'loopback' },
    { parameters: ['--device', 'cpu?host=100TiB'], names: 'host' },
  ])('3: what a daemon of $parameters refuses when it starts', async ({ parameters, names }) => {
    const data = ['--data-dir', join(directory, 'refused')];
    const ports = ['--grpc', '127.0.0.1:0', '--http', '127.0.0.1:0'];
    const run = await helsctl('up', ...data, ...ports, ...parameters);
    expect(run.stderr).toContain(names);
    expect([run.exitCode, run.left]).toEqual([3, []]);
  });

  it('3: a device option that is wrong', async () => {
    const data = join(directory, 'device');
    const { exitCode, stderr, left } = await helsctl(
      ...['up', '--device', 'cpu?speed=7', '--data-dir', data],
    );
    expect(stderr).toMatch(/device speed: '7' .* from 0\.01 to 1/);
    expect(exitCode).toBe(3);
    expect(left).toEqual([]);
  });

  it.each(['controller', 'up'])('3: %s, a data directory that cannot be made', (what) => {
    const program = what === 'up' ? [helsctlProgram, 'up'] : [programPath('controller/main')];
    // Node.js would try for ever.
    const { status, stderr } = spawnSync(
      process.execPath,
      [
        ...program,
        '--data-dir',
        '/proc/hels/data',
        '--grpc',
        '127.0.0.1:0',
        '--http',
        '127.0.0.1:0',
      ],
      { encoding: 'utf8', timeout: 20_000 },
    );
    expect(stderr).toContain('/proc/hels');
    expect(status).toBe(3);
  });

  it.each([
    { text: 'htp: 127.0.0.1:0\n', names: /config\.yaml: .*htp/ },
    {
      text: 'deployment: {model: x, workers: 0}\n',
      names: /deployment\.workers is 0; it .* from 1 to 1024/,
    },
    { text: 'http: [\n', names: /config\.yaml is not YAML/ },
  ])('3: the controller refuses the configuration $text', ({ text, names }) => {
    const file = join(directory, 'config.yaml');
    writeFileSync(file, text);
    const { status, stderr } = spawnSync(
      process.execPath,
      [programPath('controller/main'), '--config', file, '--data-dir', join(directory, 'bad')],
      { encoding: 'utf8', timeout: 20_000 },
    );
    expect(stderr).toMatch(names);
    expect(status).toBe(3);
  });

  it.each([
    { name: 'no directory', files: null, names: /absent/ },
    { name: 'no config.json', files: {}, names: /config\.json/ },
    {
      name: 'no weights',
      files: { 'config.json': '{}' },
      names: /model\.safetensors is missing/,
    },
  ])(
    '4: a model with $name',
    async ({ files, names }) => {
      const model =
        files === null ? join(directory, 'absent') : mkdtempSync(join(directory, 'model-'));
      for (const [file, text] of Object.entries(files ?? {}))
        writeFileSync(join(model, file), text);
      const local = ['--http', '127.0.0.1:0', '--grpc', '127.0.0.1:0'];
      const data = join(directory, 'bad-model');
      const { exitCode, stderr, left } = await helsctl(
        ...['up', '--model', model, '--device', 'cpu', ...local, '--data-dir', data],
      );
      expect(stderr).toMatch(names);
      expect(exitCode).toBe(4);
      expect(left).toEqual([]);
    },
    40_000,
  );

  it('3: a worker with too little memory: what lacks is named', async () => {
    const local = ['--http', '127.0.0.1:0', '--grpc', '127.0.0.1:0'];
    const data = join(directory, 'small');
    const { exitCode, stderr, left } = await helsctl(
      ...['up', '--device', 'cpu?memory=12MiB', ...local, '--data-dir', data],
    );
    expect(stderr).toMatch(/error: .*\d (MiB|KiB)/);
    expect(exitCode).toBe(3);
    expect(left).toEqual([]);
    const log = readFileSync(join(data, 'logs', 'controller.log'), 'utf8');
    expect(log).toContain('deployment failed');
  }, 60_000);
});
