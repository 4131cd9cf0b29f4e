#!/usr/bin/env node
/** The local tools of the worker side, run by `helsctl model verify` and `helsctl model inspect`. */
import { Command, CommanderError, Option } from 'commander';
import { modelDigest, readModelFiles } from '../../proto/base/model-files.ts';
import { exitCodeOf, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import {
  modelSpecFromConfig,
  type WeightTypeOption,
  weightTypeOptions,
} from '../../proto/domain/model-config.ts';
import { inspectModel } from '../binding/native.ts';
import { type Corruption, verifyModel, type VerifyReport } from './verify.ts';

interface VerifyCommandOptions {
  model: string;
  golden: string;
  ranks?: string;
  dtype: WeightTypeOption;
  chunk?: string;
  corrupt?: string;
  json?: boolean;
}

function parseChunk(text: string | undefined): number | null {
  if (text === undefined) return null;
  const chunk = Number(text);
  if (Number.isInteger(chunk) && chunk >= 1 && chunk <= 2 ** 20) return chunk;
  throw new HelsError('usage', `--chunk: '${text}' is not a whole number from 1 to ${2 ** 20}`);
}

/** `rank:tensor:byte`; tensor names have no colon. */
function parseCorruption(text: string | undefined): Corruption | null {
  if (text === undefined) return null;
  const match = /^(\d+):([^:]+):(\d+)$/.exec(text);
  if (match === null) {
    throw new HelsError('usage', `--corrupt: '${text}' is not RANK:TENSOR:BYTE`);
  }
  return { rank: Number(match[1]), tensor: match[2] ?? '', byte: Number(match[3]) };
}

function showReport(report: VerifyReport): string {
  const ranks = report.ranks.map(
    (rank, index) =>
      `rank ${index}: head groups [${rank.headGroups}), FFN columns [${rank.ffnColumns}), ` +
      `${rank.weightBytesLoaded} bytes loaded, ${rank.allReduceCount} sums`,
  );
  return [
    `${report.passed ? 'passed' : 'FAILED'}: largest difference ${report.maxDifference} of ${report.tolerance} allowed, ` +
      `greedy tokens ${report.greedyMatch ? 'equal' : 'different'}`,
    `logits sha256 ${report.logitsSha256}`,
    ...ranks,
  ].join('\n');
}

async function verify(options: VerifyCommandOptions): Promise<void> {
  const report = await verifyModel({
    model: options.model,
    golden: options.golden,
    ranks: options.ranks ?? null,
    dtype: options.dtype,
    chunk: parseChunk(options.chunk),
    corrupt: parseCorruption(options.corrupt),
  });
  process.stdout.write(`${options.json ? JSON.stringify(report) : showReport(report)}\n`);
  process.exitCode = report.passed ? 0 : 1;
}

async function inspect(options: { model: string; json?: boolean }): Promise<void> {
  const files = await readModelFiles(options.model);
  const tensors = await inspectModel(files.directory);
  const tensorType = tensors[0]?.type ?? null;
  const model = modelSpecFromConfig(files.config, { tensorType });
  const weightBytes = tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  const digest = await modelDigest(files.directory);
  const result = { digest, weightBytes, model, tensors };
  const text = `${model.family}, ${tensors.length} tensors, ${weightBytes} bytes, digest ${digest}`;
  process.stdout.write(`${options.json ? JSON.stringify(result) : text}\n`);
}

function buildProgram(): Command {
  const program = new Command('hels-model').exitOverride();
  program
    .command('verify')
    .requiredOption('--model <dir>')
    .requiredOption('--golden <file>')
    .option('--ranks <h/w,...>')
    .addOption(new Option('--dtype <type>').choices(weightTypeOptions).default('auto'))
    .option('--chunk <n>')
    .option('--corrupt <rank:tensor:byte>')
    .option('--json')
    .action(verify);
  program
    .command('inspect')
    .requiredOption('--model <dir>')
    .option('--json')
    .action(inspect);
  return program;
}

try {
  await buildProgram().parseAsync(process.argv);
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const failure = toHelsError(error);
  process.stderr.write(`error: ${failure.message}\n`);
  process.exitCode = exitCodeOf[failure.code];
}
