/** `helsctl model verify` as outside checks call it: its JSON field by field, its options, its exit codes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { divergenceOf } from '../../worker/tools/divergence.ts';
import { readGolden } from '../../worker/tools/golden.ts';
import type { VerifyReport } from '../../worker/tools/verify.ts';
import { ScratchModels, shortGolden } from '../support/golden-models.ts';
import { helsctl } from '../support/helsctl.ts';
import { hashOfRows, logitsOf, splitDirectory } from '../support/local-logits.ts';
import { readSafetensors, tensorBytes } from '../support/safetensors.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const model = shortGolden('llama-gqa');
const scratch = new ScratchModels();
afterAll(() => scratch.remove());

function run(...options: string[]) {
  const given = ['--model', model.directory, '--golden', model.golden];
  return helsctl('model', 'verify', ...given, ...options);
}

async function report(...options: string[]): Promise<VerifyReport> {
  const { exitCode, stdout, stderr } = await run(...options, '--json');
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  return JSON.parse(stdout) as VerifyReport;
}

describe('--json', () => {
  test('has the fields of the contract', async () => {
    const golden = await readGolden(model.golden);
    const rows = await logitsOf(await splitDirectory(model.directory, null), golden.inputIds);
    const differences = rows.flatMap((row, at) =>
      golden.logits[at]!.map((value, column) => Math.abs(row[column]! - value)),
    );
    const maxLogit = Math.max(...golden.logits.flat().map(Math.abs));
    // A rank of 1 group of 4 query heads of 8; a weight of 1 and 3 of 14 granules of 8 columns; of 199 rows.
    const replicated = 4 * (199 * 64 + (4 * 2 + 1) * 64);
    const attention = 4 * 4 * (2 * 32 + 2 * 8) * 64;
    const ffn = (columns: number) => 4 * 4 * 3 * columns * 64;
    const head = (vocabularyRows: number) => 4 * vocabularyRows * 64;
    // Two for each of 4 layers in each of 17 steps, and one for each of 16 sampled tokens, where each rank adds 16 bytes.
    const allReduceCount = 2 * 4 * 17 + 16;
    const allReduceBytes = 2 * 4 * (24 + 5 + 15) * 64 * 8 + 16 * 2 * 16;
    const { klMean, topTokenAgreement } = divergenceOf(golden.logits, rows);
    expect(await report('--ranks', '1/1,1/3')).toEqual({
      maxDifference: Math.max(...differences),
      maxLogit,
      tolerance: 2e-4 * maxLogit,
      klMean,
      topTokenAgreement,
      weightType: 'f32',
      quantization: 'none',
      greedyTokens: golden.greedy.tokens,
      greedyMatch: true,
      logitsSha256: hashOfRows(rows),
      ranks: [
        {
          headGroups: [0, 1],
          ffnColumns: [0, 32],
          vocabRows: [0, 50],
          weightBytesLoaded: replicated + attention + ffn(32) + head(50),
          weightBytesReplicated: replicated,
          allReduceCount,
          allReduceBytes,
        },
        {
          headGroups: [1, 2],
          ffnColumns: [32, 112],
          vocabRows: [50, 199],
          weightBytesLoaded: replicated + attention + ffn(80) + head(149),
          weightBytesReplicated: replicated,
          allReduceCount,
          allReduceBytes,
        },
      ],
      passed: true,
    });
  });

  test('one rank by default: the whole file, no all-reduce', async () => {
    const { ranks } = await report();
    const bytes = tensorBytes(readSafetensors(join(model.directory, 'model.safetensors')));
    expect(ranks).toHaveLength(1);
    expect(ranks[0]).toMatchObject({
      headGroups: [0, 2],
      ffnColumns: [0, 112],
      weightBytesLoaded: bytes,
      allReduceCount: 0,
      allReduceBytes: 0,
    });
  });
});

describe('options', () => {
  test('--ranks and --chunk keep the hash; --corrupt changes it, on any rank that loads the tensor', async () => {
    const { logitsSha256 } = await report();
    const split = ['--ranks', '2/1,0/2,0/0'];
    expect((await report(...split, '--chunk', '7')).logitsSha256).toBe(logitsSha256);
    const corrupt = (rank: number) => [...split, '--corrupt', `${rank}:lm_head.weight:4098`];
    for (const rank of [0, 1]) {
      const spoiled = await run(...corrupt(rank), '--json');
      expect(JSON.parse(spoiled.stdout)).toMatchObject({ corrupted: true, passed: false });
      expect(spoiled.stdout).not.toContain(logitsSha256);
      expect(spoiled.exitCode).toBe(1);
    }
    const { exitCode, stderr } = await run(...corrupt(2));
    expect(stderr).toContain("rank 2 loads 0 of the 50944 bytes of 'lm_head.weight'");
    expect(exitCode).toBe(2);
  });

  test('--dtype f32 widens bf16 weights exactly: as close as f32, the same greedy tokens', async () => {
    const { directory, golden } = shortGolden('llama-gqa-bf16');
    const given = ['--model', directory, '--golden', golden, '--dtype', 'f32', '--json'];
    const { exitCode, stdout } = await helsctl('model', 'verify', ...given);
    expect(JSON.parse(stdout)).toMatchObject({
      weightType: 'f32',
      greedyMatch: true,
      passed: true,
    });
    expect(exitCode).toBe(0);
  });

  test('a reference that differs by more than the tolerance fails with exit code 1', async () => {
    const { inputIds, logits, greedy } = await readGolden(model.golden);
    logits[7]![11]! += 2e-3;
    const file = join(scratch.folder, 'golden.json');
    writeFileSync(file, JSON.stringify({ input_ids: inputIds, logits, greedy }));
    const parameters = ['--model', model.directory, '--golden', file];
    const { exitCode, stdout } = await helsctl('model', 'verify', ...parameters, '--json');
    const { passed, maxDifference } = JSON.parse(stdout) as VerifyReport;
    expect(passed).toBe(false);
    expect(maxDifference).toBeCloseTo(2e-3, 4);
    expect(exitCode).toBe(1);
  });

  test('without --json it prints a table for people', async () => {
    const { exitCode, stdout } = await run('--ranks', '1/1,1/0');
    expect(stdout).toMatch(
      /^rank +head groups +FFN columns +vocab rows +weights loaded +all-reduces\n/,
    );
    expect(stdout).toMatch(/^1 +\[1, 2\) +- +- /m);
    expect(stdout).toMatch(/^result +passed$/m);
    expect(exitCode).toBe(0);
  });

  test.each([
    [['--ranks', '1/1'], '--ranks has 1 head groups in all (1); the model has 2'],
    [['--ranks', '1/1,1'], "'1' is not h/w"],
    [['--ranks', '1/0,1/0'], 'every rank the FFN weight 0'],
    [['--chunk', '0'], "'--chunk <n>' argument '0' is invalid"],
    [['--dtype', 'f64'], "'--dtype <type>' argument 'f64' is invalid"],
    [['--corrupt', '1:lm_head.weight'], 'RANK:TENSOR:BYTE'],
    [['--corrupt', '1:lm_head.weight:0'], 'rank 1 does not exist; there are 1 ranks'],
  ])('%j: usage, exit code 2', async (options, message) => {
    const { exitCode, stdout, stderr } = await run(...options, '--json');
    expect(stdout).toBe('');
    const { error } = JSON.parse(stderr) as { error: { code: string; message: string } };
    expect(error.code).toBe('usage');
    expect(error.message).toContain(message);
    expect(exitCode).toBe(2);
  });

  test.each([['--json'], []])('a missing option: exit code 2, %s', async (...json) => {
    const { exitCode, stdout, stderr } = await helsctl('model', 'verify', ...json);
    const message = "required option '--model <dir>' not specified";
    const told = { error: { code: 'usage', message, field: null } };
    expect(stderr).toBe(json.length > 0 ? `${JSON.stringify(told)}\n` : `error: ${message}\n`);
    expect(stdout).toBe('');
    expect(exitCode).toBe(2);
  });
});
