import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { ClusterPlanReport } from '../../controller/tools/plan-command.ts';
import { device, smallInput } from '../unit/planner/inputs.ts';

/** The built command, as a person runs it; no daemon is needed. */
const folder = mkdtempSync(join(tmpdir(), 'hels-what-if-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

function helsctl(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['dist/client/helsctl/main.js', 'plan', ...args],
    { encoding: 'utf8', timeout: 60_000 },
  );
  return { code: status, stdout, stderr };
}

const cluster = 'deploy/examples/llama-2-13b-2xa100-2xp100.yaml';
const model = 'deploy/examples/models/llama-2-13b';
const input = file('input.json', smallInput([device('a', { perHeadGroup: 1 })]));

describe('a cluster that nobody owns', { timeout: 60_000 }, () => {
  test('plan, times and all six policies in one table', () => {
    const { code, stdout, stderr } = helsctl(
      ...['--cluster', cluster, '--model', model, '--sequences', '128', '--context', '476'],
      ...['--step-seconds-max', '0.05', '--explain'],
    );
    expect(stderr).toBe('');
    expect(code).toBe(0);
    for (const policy of ['hels', 'stepwise', 'optimal', 'compute', 'memory', 'equal']) {
      expect(stdout).toMatch(new RegExp(`^${policy} `, 'm'));
    }
    expect(stdout).toMatch(/largest batch with a step of at most 50\.000 ms: \d+ sequences/);
    expect(stdout).toContain("equal: kv: device 'p100-0' has 14.40 GiB");
    expect(stdout).toContain('optimal: the optimum of the formula; predicted in lockstep');
    expect(stdout).toContain('what binds:');
    expect(stdout).toContain('without a100-80-0:');
  });

  test('--json: input, plan, policies; the input makes the same plan again', () => {
    const { code, stdout } = helsctl(
      ...['--cluster', cluster, '--model', `${model}/config.json`, '--policy', 'hels,equal'],
      '--json',
    );
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as ClusterPlanReport;
    expect(Object.keys(report)).toEqual(['input', 'plan', 'policies']);
    expect(report.policies.map(({ policy }) => policy)).toEqual(['hels', 'equal']);
    const again = helsctl('--input', file('again.json', report.input), '--json');
    const { solver: _, ...plan } = JSON.parse(again.stdout) as ClusterPlanReport['plan'];
    expect(report.plan).toMatchObject(plan);
  });

  test('memory that no split fits is an answer that names the GiB that lack', () => {
    const tiny = file('tiny.yaml', 'devices: [{profile: t4, count: 2, memory: 8GiB}]');
    const { code, stdout } = helsctl('--cluster', tiny, '--model', model);
    expect(code).toBe(0);
    expect(stdout).toMatch(/not feasible: memory: 24\.\d\d GiB of weights .* GiB lack/);
  });

  test('--input takes --explain', () => {
    const { code, stdout } = helsctl('--input', input, '--explain', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toHaveProperty('explanation.binding.constraint', 'compute');
  });
});

describe('bad input ends with its exit code and one line', { timeout: 60_000 }, () => {
  const negative = smallInput([device('a', { perHeadGroup: -1 })]);
  const twice = smallInput([device('a', {}), device('a', {})]);
  const uncut = {
    architectures: ['LlamaForCausalLM'],
    hidden_size: 512,
    intermediate_size: 1024,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    num_key_value_heads: 7,
    max_position_embeddings: 2048,
    vocab_size: 1000,
  };

  test.each([
    [['--input', file('none.json', smallInput([]))], 3, 'devices is []'],
    [['--input', file('negative.json', negative)], 3, 'perHeadGroup is -1'],
    [['--input', file('nan.json', '{"model": NaN}')], 3, 'is not JSON'],
    [['--input', file('twice.json', twice)], 3, "devices[1].id is 'a' like devices[0].id"],
    [
      ['--cluster', file('x.yaml', 'devices: [{profile: a200}]'), '--model', model],
      3,
      "devices[0].profile is 'a200'; the profiles are a100-40",
    ],
    [
      ['--cluster', file('y.yaml', 'devices: [{profile: l4}]\nspeed: 1'), '--model', model],
      3,
      'speed is not a field of the cluster file',
    ],
    [['--cluster', file('z.yaml', 'devices: [{profile: l4'), '--model', model], 3, 'is not YAML'],
    [
      [
        '--cluster',
        file('n.yaml', 'memoryShare: .nan\ndevices: [{profile: l4}]'),
        '--model',
        model,
      ],
      3,
      'memoryShare is NaN',
    ],
    [['--cluster', cluster, '--model', folder], 4, 'config.json cannot be read'],
    [['--cluster', cluster, '--model', file('uncut.json', uncut)], 4, 'num_key_value_heads'],
    [['--cluster', cluster], 2, '--model is missing'],
    [['--cluster', cluster, '--model', model, '--sequences', '0'], 2, "--sequences is '0'"],
    [['--cluster', cluster, '--model', model, '--policy', 'best'], 2, "names 'best'"],
    [['--input', input, '--sequences', '4'], 2, '--sequences belongs to --cluster'],
    [['--input', input, '--cluster', cluster], 2, 'exclude each other'],
  ])('%j', (args, exitCode, message) => {
    const { code, stdout, stderr } = helsctl(...args);
    expect(stderr).toMatch(/^error: /);
    expect(stderr).toContain(message);
    expect(stderr.trimEnd()).not.toContain('\n');
    expect(stdout).toBe('');
    expect(code).toBe(exitCode);
  });

  test('--json: the error is JSON with its code and field', () => {
    const { code, stderr } = helsctl('--input', file('no.json', smallInput([])), '--json');
    expect(code).toBe(3);
    expect(JSON.parse(stderr)).toEqual({
      error: {
        code: 'config-invalid',
        field: 'devices',
        message: 'plan input: devices is []; it must name at least one device',
      },
    });
  });
});
