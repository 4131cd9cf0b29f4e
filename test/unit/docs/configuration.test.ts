/** docs/reference/config.md and deploy/examples against the code that reads configuration. */
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { controllerCommand, parseControllerConfig } from '../../../controller/config.ts';
import { configFileFields, deploymentFields } from '../../../controller/config-file.ts';
import { logLevels } from '../../../proto/base/log.ts';
import { planPolicies } from '../../../proto/domain/plan.ts';
import { parseWorkerConfig, workerCommand } from '../../../worker/daemon/config.ts';

const page = readFileSync(new URL('../../../docs/reference/config.md', import.meta.url), 'utf8');
const [, controllerSection = '', workerSection = ''] = page.split(/^## /m);
const rowsOf = (section: string) => section.split('\n').filter((line) => line.startsWith('| '));
/** The table row with the name in one of its first `columns` cells. */
const rowOf = (section: string, name: string, columns: number) =>
  rowsOf(section).find((row) =>
    row
      .split('|')
      .slice(1, columns + 1)
      .some((cell) => cell.includes(`\`${name}\``)),
  );

afterEach(() => {
  vi.unstubAllEnvs();
});

describe('docs/reference/config.md', () => {
  const controllerOptions = controllerCommand('0').options.filter(
    ({ long }) => long !== '--version',
  );
  const workerOptions = workerCommand('0').options.filter(({ long }) => long !== '--version');

  it.each(controllerOptions.map(({ long, envVar }) => ({ long, envVar })))(
    'has the controller option $long',
    ({ long, envVar }) => {
      const row = rowOf(controllerSection, long ?? '', 1);
      expect(row).toBeDefined();
      if (envVar !== undefined) expect(row).toContain(`\`${envVar}\``);
    },
  );

  it.each([...configFileFields, ...deploymentFields])('has the field %s of the file', (field) => {
    const columns = deploymentFields.includes(field) ? 1 : 2;
    expect(rowOf(controllerSection, field, columns)).toBeDefined();
  });

  it.each(workerOptions.map(({ long, envVar, defaultValue }) => ({ long, envVar, defaultValue })))(
    'has the worker option $long with its variable and default',
    ({ long, envVar, defaultValue }) => {
      const row = rowOf(workerSection, long ?? '', 1);
      expect(row).toContain(`\`${envVar}\``);
      if (defaultValue !== undefined) expect(row).toContain(`\`${String(defaultValue)}\``);
    },
  );

  it('names no option that does not exist', () => {
    const known = [...controllerOptions, ...workerOptions].map(({ long }) => long);
    for (const [, name] of page.matchAll(/`(--[a-z-]+)`/g)) expect(known).toContain(name);
  });

  it('has the choices and defaults as they are', () => {
    for (const level of logLevels)
      expect(rowOf(controllerSection, '--log-level', 1)).toContain(level);
    for (const policy of planPolicies)
      expect(rowOf(controllerSection, 'policy', 1)).toContain(policy);
    const config = parseControllerConfig([], '0', () => '');
    expect(rowOf(controllerSection, '--http', 1)).toContain(`:${config.http.port}\``);
    expect(rowOf(controllerSection, '--grpc', 1)).toContain(`:${config.grpc.port}\``);
    expect(rowOf(controllerSection, '--data-dir', 1)).toContain(`\`${config.dataDirectory}\``);
  });
});

describe('deploy/examples', () => {
  const examples = new URL('../../../deploy/examples/', import.meta.url);
  const files = readdirSync(examples, { recursive: true, encoding: 'utf8' });
  const read = (file: string) =>
    readFileSync(new URL(file, examples), 'utf8').replaceAll('@PREFIX@', '/opt/hels');
  /** With the commented alternatives too: what an operator uncomments must be right. */
  const uncommented = (text: string) => text.replaceAll(/^#(?=[A-Z_]+=.)/gm, '');
  const worker = (text: string) => {
    vi.stubEnv('HELS_WORKER_ID', 'host-0');
    for (const [, name = '', value = ''] of text.matchAll(/^([A-Z_]+)=(.*)$/gm)) {
      expect(workerCommand('0').options.map(({ envVar }) => envVar)).toContain(name);
      vi.stubEnv(name, value);
    }
    return parseWorkerConfig([], '0');
  };

  /** The other YAML files are cluster files of the what-if tools. */
  const controllers = files.filter((file) => /(^|\/)controller\.yaml$/.test(file));
  it.each(controllers)('%s is a configuration', (file) => {
    const config = parseControllerConfig(['--config', file], '0', read);
    expect(config.deployment?.model).toMatch(/^\//);
  });

  it.each(files.filter((file) => file.endsWith('.env') && file !== 'controller.env'))(
    '%s is a configuration, as it is and uncommented',
    (file) => {
      expect(worker(read(file)).id).toMatch(/^host-/);
      vi.unstubAllEnvs();
      expect(worker(uncommented(read(file)))).toBeDefined();
    },
  );

  it('two hosts: as many workers as the controller waits for, with different names, that dial it', () => {
    const file = 'two-hosts/controller.yaml';
    const controller = parseControllerConfig(['--config', file], '0', read);
    const workers = files
      .filter((name) => /two-hosts\/.*\.env$/.test(name))
      .map((name) => {
        const config = worker(read(name));
        vi.unstubAllEnvs();
        return config;
      });
    expect(new Set(workers.map(({ id }) => id)).size).toBe(controller.deployment?.workers);
    const { host, port } = controller.grpc;
    for (const config of workers) expect(config.controllers).toEqual([`${host}:${port}`]);
  });
});
