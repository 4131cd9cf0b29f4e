import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { planCommand } from '../../../controller/tools/plan-command.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { PlanOutput } from '../../../proto/domain/plan.ts';
import { device, smallInput } from '../planner/inputs.ts';

const folder = mkdtempSync(join(tmpdir(), 'hels-plan-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const input = smallInput([
  device('fast', { perHeadGroup: 1 }),
  device('slow', { perHeadGroup: 3 }, { memoryBytes: 3000 }),
]);
const good = file('good.json', JSON.stringify(input));
const frozen = (): number => 0;

async function failureOf(args: string[]): Promise<HelsError> {
  try {
    await planCommand(args, frozen);
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('the command succeeded');
}

describe('plan', () => {
  test('--json prints the plan of the contract', async () => {
    const output = JSON.parse(await planCommand(['--input', good, '--json'], frozen)) as PlanOutput;
    const names = ['policy', 'feasible', 'ranks', 'predicted', 'solver'];
    expect(Object.keys(output)).toEqual([...names, 'warnings']);
    expect(output.policy).toBe('hels');
    expect(output.predicted.decodeSeconds).toBe(3);
  });

  test('warns of what is given and no plan depends on, in JSON and for people', async () => {
    const bare = { ...input, workload: { ...input.workload, outputTokens: 0 } };
    const silent = file('silent.json', JSON.stringify(bare));
    expect(JSON.parse(await planCommand(['--input', silent, '--json'], frozen))).not.toHaveProperty(
      'warnings',
    );
    const [fast, slow] = input.devices;
    const restore = { reloadSecondsPerTokenHeadGroup: 1e-6 };
    const devices = [fast, { ...slow, restore }, { ...slow, id: 'third', restore }];
    const path = file('unused.json', JSON.stringify({ ...input, devices }));
    const { warnings = [] } = JSON.parse(
      await planCommand(['--input', path, '--json'], frozen),
    ) as PlanOutput;
    expect(warnings).toEqual([
      expect.stringContaining('workload.outputTokens is 5, and this plan does not depend on it'),
      expect.stringContaining(
        'devices[1].restore (and of 1 more devices) is given, and this plan does not',
      ),
    ]);
    const text = await planCommand(['--input', path], frozen);
    for (const warning of warnings) expect(text).toContain(`warning: ${warning}\n`);
  });

  test('with KV on other ranks it tells whose lies where', async () => {
    const [fast, slow] = input.devices;
    const lent = {
      ...input,
      objective: 'lockstep',
      workload: { ...input.workload, contextTokens: 64, allowRemoteKv: true },
      devices: [fast, { ...slow, memoryBytes: 9000 }],
    };
    const path = file('lent.json', JSON.stringify(lent));
    const args = ['--input', path, '--policy', 'equal'];
    const text = await planCommand(args, frozen);
    const { kvLoans = [] } = JSON.parse(
      await planCommand([...args, '--json'], frozen),
    ) as PlanOutput;
    expect(kvLoans.map(({ owner, holder }) => [owner, holder])).toEqual([['slow', 'fast']]);
    expect(text).toMatch(/KV of \d+ tokens for the heads of slow lies on fast/);
    const explained = await planCommand([...args, '--explain'], frozen);
    expect(explained).toContain('KV on other ranks: ');
  });

  test('with eviction it tells what that costs, and warns of devices without a price', async () => {
    const [fast, slow] = input.devices;
    const restore = { reloadSecondsPerTokenHeadGroup: 1e-3 };
    const workload = { ...input.workload, contextTokens: 64, allowEviction: true };
    const devices = [fast, { ...slow, memoryBytes: 9000, restore }];
    const path = file('evicting.json', JSON.stringify({ ...input, workload, devices }));
    const text = await planCommand(['--input', path, '--policy', 'equal', '--explain'], frozen);
    expect(text).toContain('KV without room: 50.0 % of the KV has no room and is evicted');
    expect(text).toContain('warning: devices[0].restore gives no reloadSecondsPerTokenHeadGroup');
  });

  test('--policy goes before the policy of the file', async () => {
    const text = await planCommand(['--input', good, '--json', '--policy', 'equal'], frozen);
    expect(JSON.parse(text)).toMatchObject({ policy: 'equal', feasible: false });
  });

  test('without --json it prints a table with the reason of an infeasible plan', async () => {
    const text = await planCommand(['--input', good, '--policy', 'equal'], frozen);
    expect(text).toContain('fast    0-2    0-8');
    expect(text).toContain("not feasible: kv: device 'slow'");
    expect(text).toContain('decode step 6000.000 ms');
  });

  test.each([
    [[], 'usage', '--input is missing'],
    [['--input', good, '--speed'], 'usage', '--speed'],
    [['--input', join(folder, 'none.json')], 'config-invalid', 'cannot be read'],
    [['--input', file('bad.json', '{"model":')], 'config-invalid', 'is not JSON'],
    [['--input', file('list.json', '[]')], 'config-invalid', 'the input is []'],
    [['--input', good, '--policy', 'best'], 'usage', "--policy is 'best'; with --input it must be"],
    [['--input', good, '--policy', 'all'], 'usage', "--policy is 'all'; with --input it must be"],
    [
      ['--input', file('policy.json', JSON.stringify({ ...input, policy: 'best' }))],
      'config-invalid',
      'policy is "best"',
    ],
  ])('%j is refused as %s', async (args, code, message) => {
    const failure = await failureOf(args);
    expect(failure.code).toBe(code);
    expect(failure.message).toContain(message);
    expect(failure.message).not.toContain('\n');
  });
});
