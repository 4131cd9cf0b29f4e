import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { simulateCommand } from '../../../controller/tools/simulate-command.ts';
import type { SimulationComparison } from '../../../controller/tools/simulation-comparison.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { device, smallInput } from '../planner/inputs.ts';

const folder = mkdtempSync(join(tmpdir(), 'hels-simulate-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const input = file(
  'input.json',
  JSON.stringify(
    smallInput([
      device('fast', { perHeadGroup: 0.01 }),
      // Half of the model (2032 bytes) and 32 tokens of its KV.
      device('slow', { perHeadGroup: 0.03 }, { memoryBytes: 2032 + 32 * 64 }),
    ]),
  ),
);
const cluster = file('cluster.yaml', 'devices:\n  - profile: a100-80\n    count: 2\n');
const base = ['--input', input, '--trace', 'burst:count=5,prompt=3,output=4'];
const model = 'deploy/examples/models/llama-2-13b';

async function compare(args: string[]): Promise<SimulationComparison> {
  return JSON.parse(await simulateCommand([...args, '--json'])) as SimulationComparison;
}

async function failureOf(args: string[]): Promise<HelsError> {
  try {
    await simulateCommand(args);
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('the command succeeded');
}

describe('simulate', () => {
  test('--json has plan and report of each policy, in the order asked for', async () => {
    const comparison = await compare([...base, '--policy', 'hels,equal']);
    expect(comparison.trace).toEqual({
      requests: 5,
      seconds: 0,
      promptTokens: 15,
      outputTokens: 20,
    });
    expect(comparison.limits).toEqual({ sequencesMax: 2, stepTokensMax: 3 });
    expect(comparison.policies.map(({ policy }) => policy)).toEqual(['hels', 'equal']);
    const [hels, equal] = comparison.policies;
    expect(hels?.report?.requests.completed).toBe(5);
    expect(equal?.report?.requests.completed).toBe(5);
    expect(hels?.report?.makespanSeconds).toBeLessThan(equal?.report?.makespanSeconds ?? 0);
  });

  test('the same command prints the same bytes; another seed does not', async () => {
    const args = [...base.slice(0, 2), '--trace', 'poisson:rate=9,count=40,lengths=sharegpt'];
    const one = [...args, '--noise', '0.1', '--json'];
    expect(await simulateCommand(one)).toBe(await simulateCommand(one));
    expect(await simulateCommand([...one, '--seed', '2'])).not.toBe(await simulateCommand(one));
  });

  test('a cluster of profiles serves a trace file; the table has TTFT, TPOT and idle shares', async () => {
    const trace = file(
      'trace.csv',
      'atSeconds,promptTokens,outputTokens\n0,100,10\n1,5000,10\n2,50,5\n',
    );
    const text = await simulateCommand([
      '--cluster',
      cluster,
      '--model',
      model,
      '--trace',
      trace,
      '--policy',
      'equal',
    ]);
    expect(text).toContain('3 requests over 2.0 s, 5150 prompt and 25 output tokens');
    // One is longer than the model's 4096 positions.
    expect(text).toMatch(/^equal +2 +1 /m);
    expect(text).toContain('TTFT p50');
    expect(text).toContain('a100-80-0 0 %, a100-80-1 0 %');
  });

  test('a policy that cannot serve says why beside those that can', async () => {
    const small = smallInput([
      device('big', { perHeadGroup: 1 }),
      device('tiny', { perHeadGroup: 1 }, { memoryBytes: 500 }),
    ]);
    const path = file('small.json', JSON.stringify(small));
    const comparison = await compare([
      '--input',
      path,
      '--trace',
      base[3] ?? '',
      '--policy',
      'equal,hels',
    ]);
    expect(comparison.policies[0]).toMatchObject({ policy: 'equal', report: null });
    expect(comparison.policies[0]?.reason).toContain("memory: device 'tiny'");
    expect(comparison.policies[1]?.report?.requests.completed).toBe(5);
  });

  test('--lose takes a device away; the requests go on over the rest, planned anew', async () => {
    const trace = 'poisson:rate=10,count=200,prompt=3,output=4';
    const args = ['--input', input, '--trace', trace, '--policy', 'hels'];
    const lost = await compare([
      ...args,
      '--lose',
      'slow@5s',
      '--notice',
      '1s',
      '--redeploy',
      '2s',
    ]);
    const report = lost.policies[0]?.report;
    expect(report?.epochs).toBe(2);
    expect(report?.requests.failed).toBe(0);
    // Those that come while the rest is deployed wait for it.
    expect(report?.requests).toMatchObject({ completed: 200, refusedNotReady: 0 });
  });

  test('--out writes a plot with a curve for each policy and metric', async () => {
    const out = join(folder, 'plot.svg');
    await simulateCommand([...base, '--policy', 'hels,equal,compute', '--out', out]);
    const svg = readFileSync(out, 'utf8');
    expect(svg.startsWith('<svg xmlns=')).toBe(true);
    expect(svg.match(/<polyline/g)).toHaveLength(6);
    expect(svg).not.toContain('NaN');
  });
});

describe('refusals', () => {
  const { length } = base;
  const trace = (text: string): string[] => [...base.slice(0, length - 1), text];
  test.each([
    [[], 'usage', '--cluster is missing'],
    [['--input', input], 'usage', '--trace is missing'],
    [[...base, '--cluster', cluster], 'usage', '--cluster and --input exclude each other'],
    [[...base, '--context', '9'], 'usage', '--context belongs to --cluster'],
    [['--cluster', cluster, '--trace', 'x'], 'usage', '--model is missing'],
    [[...base, '--policy', 'best'], 'usage', "--policy names 'best'"],
    [[...base, '--sequences', '0'], 'usage', "--sequences is '0'"],
    [
      [...base, '--sequences', '4'],
      'usage',
      '--sequences is 4; it must be at most --prefill-chunk, 3',
    ],
    [[...base, '--slo', 'ttft=1'], 'usage', "--slo has '1'"],
    [[...base, '--slo', 'itl=1s'], 'usage', "--slo has 'itl=1s'"],
    [[...base, '--lose', 'fast'], 'usage', "--lose has ''"],
    [[...base, '--lose', '@1s'], 'usage', "--lose has '@1s'; write DEVICE@TIME"],
    [[...base, '--lose', 'fast@1s'], 'usage', '--redeploy is missing'],
    [[...base, '--redeploy', '1s'], 'usage', '--redeploy belongs to'],
    [
      [...base, '--lose', 'gpu@1s', '--redeploy', '1s'],
      'usage',
      "--lose names 'gpu'; the devices are fast, slow",
    ],
    [[...base, '--noise', '2'], 'usage', "--noise is '2'"],
    [[...base, '--seed', '-1'], 'usage', '--seed'],
    [[...base, '--speed', '1'], 'usage', '--speed'],
    [trace('poisson:count=3,lengths=azure'), 'usage', 'poisson: rate is missing'],
    [trace('poisson:rate=0,count=3,lengths=azure'), 'usage', "poisson: rate is '0'"],
    [trace('gamma:rate=1,count=3,lengths=azure'), 'usage', 'gamma: variation is missing'],
    [
      trace('burst:count=3,lengths=alpaca'),
      'usage',
      "lengths is 'alpaca'; it must be one of azure, sharegpt, openchat",
    ],
    [trace('burst:count=3,prompt=3'), 'usage', 'burst: output is missing'],
    [trace('burst:count=3,count=4,prompt=3,output=1'), 'usage', 'burst: count is given twice'],
    [
      trace('burst:rate=3,count=4,prompt=3,output=1'),
      'usage',
      "burst: 'rate' is not one of its parts",
    ],
    [trace(join(folder, 'none.csv')), 'config-invalid', 'cannot be read'],
    [
      trace(file('bad.csv', 'TIMESTAMP,ContextTokens,GeneratedTokens\n1,2\n')),
      'config-invalid',
      'trace: line 2',
    ],
    [['--input', file('bad.json', '{}'), ...base.slice(2)], 'config-invalid', 'plan input'],
    [[...base, '--out', join(folder, 'none', 'plot.svg')], 'config-invalid', '--out'],
  ])('%j is refused as %s', async (args, code, message) => {
    const failure = await failureOf(args);
    expect(failure.code).toBe(code);
    expect(failure.message).toContain(message);
    expect(failure.message).not.toContain('\n');
  });
});
