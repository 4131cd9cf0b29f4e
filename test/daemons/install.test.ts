/** What deploy/install.sh puts on a host, run from there: units, command line, daemons, SDK; and what --uninstall leaves. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../support/deadline.ts';
import { type UnitCommand, unitCommand } from '../support/unit-file.ts';
import { device, smallInput } from '../unit/planner/inputs.ts';

const tree = fileURLToPath(new URL('../..', import.meta.url));
const typescript = join(tree, 'node_modules/typescript/bin/tsc');
const work = mkdtempSync(join(tmpdir(), 'hels-install-'));
const root = join(work, 'root');
const installed = join(root, 'opt/hels');
const units = join(root, 'usr/local/lib/systemd/system');
const configuration = join(root, 'etc/hels');
const helsctl = join(root, 'usr/local/bin/helsctl');

function install(...parameters: string[]) {
  const script = join(tree, 'deploy/install.sh');
  return spawnSync(script, parameters, { encoding: 'utf8', cwd: work });
}

const stagedInstall = () =>
  install('--root', root, '--node-modules', join(tree, 'node_modules'), '--node', process.execPath);

/** Files and links, not directories. */
function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length))
    .sort();
}

interface Listening {
  http?: string;
  grpc?: string;
  address?: string;
}

interface Daemon {
  listening: Promise<Listening>;
  /** SIGTERM, then SIGKILL after 20 s; resolves to the exit code, or null when a signal ended it. */
  stop(): Promise<number | null>;
}

function startDaemon({ program, parameters, environment }: UnitCommand): Daemon {
  const child = spawn(program, parameters, {
    cwd: '/',
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (text: Buffer) => {
    log += text.toString();
  });
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => resolve(code));
  });
  const listening = new Promise<Listening>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not listening after 15 s:\n${log}`)), 15_000);
    createInterface({ input: child.stdout }).on('line', (line) => {
      clearTimeout(timer);
      resolve(JSON.parse(line) as Listening);
    });
    void exited.then((code) => {
      clearTimeout(timer);
      reject(new Error(`exited with ${code}:\n${log}`));
    });
  });
  listening.catch(() => undefined);
  return {
    listening,
    async stop() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
      const code = await exited;
      clearTimeout(timer);
      return code;
    },
  };
}

function commandOf(unit: string, instance: string): UnitCommand {
  const state = join(work, 'state');
  mkdirSync(state, { recursive: true });
  return unitCommand(join(units, unit), {
    instance,
    root,
    staged: ['/opt/hels/', '/etc/hels/'],
    environment: { STATE_DIRECTORY: state },
  });
}

async function untilReady(http: string): Promise<void> {
  await eventually(60_000, `${http} is ready`, async () => {
    const answer = await fetch(`http://${http}/ready`);
    if (!answer.ok) throw new Error(await answer.text());
    return true;
  });
}

beforeAll(() => {
  const { status, stderr, stdout } = stagedInstall();
  expect(stderr).toBe('');
  expect(status).toBe(0);
  expect(stdout).toContain('systemctl enable --now hels-controller hels-worker@0');
}, 60_000);

afterAll(() => {
  rmSync(work, { recursive: true, force: true });
});

describe('the installed units', () => {
  /** Unknown keys are only warnings on stderr, with exit code 0. */
  const verify = (file: string) => {
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
    return { status, lines: stderr.split('\n').filter((line) => line.includes('hels-')) };
  };

  it.each(['hels-controller.service', 'hels-worker@.service'])('%s has no finding', (unit) => {
    expect(verify(join(units, unit))).toEqual({ status: 0, lines: [] });
  });

  it('would show a key that systemd does not know', () => {
    const text = readFileSync(join(units, 'hels-controller.service'), 'utf8');
    const file = join(work, 'hels-mistake.service');
    writeFileSync(file, text.replace('ProtectHome=', 'ProtectHomes='));
    expect(verify(file).lines).toEqual([expect.stringContaining('ProtectHomes')]);
  });

  it('name no file that was not installed, and no placeholder', () => {
    for (const unit of readdirSync(units)) {
      const text = readFileSync(join(units, unit), 'utf8');
      expect(text).not.toMatch(/=.*@[A-Z]+@/);
      const paths = text.match(/\/opt\/hels\/[\w./-]+/g) ?? [];
      expect(paths.length).toBeGreaterThan(0);
      for (const path of paths) expect(statSync(join(root, path)).isFile()).toBe(true);
    }
  });
});

describe('the installed helsctl', () => {
  it('tells its version from any directory', () => {
    const output = execFileSync(helsctl, ['version', '--json'], { cwd: '/', encoding: 'utf8' });
    const manifest = readFileSync(join(tree, 'package.json'), 'utf8');
    const { version } = JSON.parse(manifest) as { version: string };
    expect(JSON.parse(output)).toEqual({ hels: version, node: process.versions.node });
  });

  it('plans from a file', () => {
    const file = join(work, 'plan-input.json');
    const line = { constant: 1e-3, perHeadGroup: 1e-3, perFfnColumn: 1e-4 };
    writeFileSync(file, JSON.stringify(smallInput([device('a', line), device('b', line)])));
    const parameters = ['plan', '--input', file, '--json'];
    const output = execFileSync(helsctl, parameters, { cwd: '/', encoding: 'utf8' });
    expect(JSON.parse(output)).toMatchObject({ feasible: true, policy: 'hels' });
  });

  it('plans for GPUs known by their datasheets, as the reference shows', () => {
    const cluster = join(tree, 'deploy/examples/mixed-workstation.yaml');
    const model = join(tree, 'deploy/examples/models/llama-2-13b');
    const parameters = ['plan', '--cluster', cluster, '--model', model];
    const output = execFileSync(helsctl, parameters, { cwd: '/', encoding: 'utf8' });
    expect(output).toContain('hels');
    expect(output).toMatch(/TPOT/);
  });
});

describe('the installed daemons', () => {
  const daemons: Daemon[] = [];
  let http = '';
  let grpc = '';

  beforeAll(async () => {
    const file = join(configuration, 'controller.yaml');
    const edited = readFileSync(file, 'utf8')
      .replaceAll(/^(http|grpc): 127\.0\.0\.1:\d+$/gm, '$1: 127.0.0.1:0')
      .replace('model: /opt/hels', `model: ${installed}`);
    writeFileSync(file, edited);
    const controller = startDaemon(commandOf('hels-controller.service', ''));
    daemons.push(controller);
    const listening = await controller.listening;
    http = listening.http ?? '';
    grpc = listening.grpc ?? '';
    appendFileSync(join(configuration, 'worker-0.env'), `HELS_WORKER_CONTROLLER=${grpc}\n`);
    const worker = startDaemon(commandOf('hels-worker@.service', '0'));
    daemons.push(worker);
    await worker.listening;
    await untilReady(http);
  }, 120_000);

  afterAll(async () => {
    await Promise.all(daemons.map((daemon) => daemon.stop()));
  }, 60_000);

  it('answer a question, run exactly as the units run them', () => {
    const parameters = ['chat', '--json', '--address', grpc, '-m', 'What is Hels?'];
    const output = execFileSync(helsctl, parameters, { cwd: '/', encoding: 'utf8' });
    expect(output).toContain('heterogeneity-aware');
  });

  it('answer the SDK example of the documentation, which type-checks against the installed types', () => {
    const page = readFileSync(join(tree, 'docs/reference/sdk.md'), 'utf8');
    const example = /```ts\n([\s\S]*?)```/.exec(page)?.[1] ?? '';
    expect(example.split('\n').length).toBeGreaterThan(8);
    const project = join(work, 'project');
    mkdirSync(join(project, 'node_modules'), { recursive: true });
    // What `npm install /opt/hels` makes.
    symlinkSync(installed, join(project, 'node_modules/hels'));
    writeFileSync(join(project, 'ask.mts'), example);
    // A wrong name must not pass: without types everything would be `any`.
    writeFileSync(
      join(project, 'wrong.mts'),
      example.replace('event.completionTokens', 'event.wrong'),
    );
    const options = ['--strict', '--module', 'nodenext', '--target', 'es2023'];
    const { stdout } = spawnSync(
      process.execPath,
      [typescript, ...options, 'ask.mts', 'wrong.mts'],
      { cwd: project, encoding: 'utf8' },
    );
    const findings = stdout.trim().split('\n');
    expect(findings).toEqual([expect.stringMatching(/^wrong\.mts.*'wrong' does not exist/)]);
    const output = execFileSync(process.execPath, ['ask.mjs'], {
      cwd: project,
      encoding: 'utf8',
      env: { HELS_ADDRESS: grpc },
    });
    expect(output).toMatch(/heterogeneity-aware[\s\S]*\n\d+ tokens, stop\n$/);
  }, 60_000);

  it('stop on SIGTERM with exit code 0, the controller first', async () => {
    for (const daemon of daemons.splice(0)) expect(await daemon.stop()).toBe(0);
  }, 60_000);
});

describe('installing again and uninstalling', () => {
  it('keeps edited configuration, and a secret file for root alone', () => {
    const file = join(configuration, 'controller.yaml');
    appendFileSync(file, '# edited\n');
    const before = readFileSync(file, 'utf8');
    const { status, stdout } = stagedInstall();
    expect(status).toBe(0);
    expect(stdout).toContain(`kept        ${file}`);
    expect(readFileSync(file, 'utf8')).toBe(before);
    expect(statSync(join(configuration, 'controller.env')).mode & 0o777).toBe(0o600);
  }, 60_000);

  it('leaves the configuration and nothing else', () => {
    expect(install('--root', root, '--uninstall')).toMatchObject({ status: 0, stderr: '' });
    const names = ['controller.env', 'controller.yaml', 'worker-0.env'];
    expect(filesBelow(root)).toEqual(names.map((name) => `/etc/hels/${name}`));
  });
});

describe('install.sh refuses', () => {
  it.each([
    [['--prefix', 'relative'], "--prefix is 'relative'"],
    [['--prefix'], '--prefix needs a value'],
    [['--prefix', '/usr'], "--prefix is '/usr'"],
    [['--wrong'], "unknown option '--wrong'"],
    [['--root', root, '--node', '/nowhere/node'], '/nowhere/node cannot be executed'],
  ])('%j', (parameters, message) => {
    const { status, stderr } = install(...parameters);
    expect(status).toBe(1);
    expect(stderr).toContain(message);
  });

  it('a prefix that holds something else', () => {
    const other = join(work, 'other/opt/hels');
    mkdirSync(other, { recursive: true });
    writeFileSync(join(other, 'precious'), 'data');
    for (const action of [[], ['--uninstall']]) {
      const { status, stderr } = install('--root', join(work, 'other'), ...action);
      expect(status).toBe(1);
      expect(stderr).toContain('is not an installation of Hels');
    }
    expect(readdirSync(other)).toEqual(['precious']);
  });

  describe('from a copy outside of a built tree', () => {
    const script = join(work, 'copy/deploy/install.sh');

    beforeAll(() => {
      mkdirSync(join(work, 'copy/deploy'), { recursive: true });
      copyFileSync(join(tree, 'deploy/install.sh'), script);
      chmodSync(work, 0o755);
    });

    it('a tree that is not built, naming the command that builds it', () => {
      const parameters = ['--root', join(work, 'unbuilt')];
      const { status, stderr } = spawnSync(script, parameters, { encoding: 'utf8' });
      expect(status).toBe(1);
      expect(stderr).toContain(
        'dist/controller/main.js is missing; build Hels first with: make build',
      );
    });

    it('to write to the system without root', () => {
      const drop = ['--reuid=65534', '--regid=65534', '--clear-groups', script];
      const isRoot = process.getuid?.() === 0;
      const { status, stderr } = isRoot
        ? spawnSync('setpriv', drop, { encoding: 'utf8', cwd: '/' })
        : spawnSync(script, [], { encoding: 'utf8' });
      expect(status).toBe(1);
      expect(stderr).toContain('root is needed to write /opt/hels');
    });
  });
});
