#!/usr/bin/env node
/** `verify`, `inspect`, `quantize` and `doctor`: what helsctl runs as a child process, because only the worker's side may load the addon. */
import { performance } from 'node:perf_hooks';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { outputFailure } from '../../proto/base/output-failure.ts';
import { exitCodeOf, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { type WeightTypeOption, weightTypeOptions } from '../../proto/domain/model-config.ts';
import { type QuantizationOption, quantizationOptions } from '../../proto/domain/quantization.ts';
import type { Corruption } from './corruption.ts';
import { examineHost } from './doctor.ts';
import { inspectDirectory } from './inspect.ts';
import { quantizeModel } from './quantize.ts';
import {
  describeHost,
  describeInspection,
  describeQuantization,
  describeVerification,
} from './tables.ts';
import { verifyModel } from './verify.ts';

interface VerifyFlags {
  model: string;
  golden: string;
  ranks?: string;
  dtype: WeightTypeOption;
  quantization: QuantizationOption;
  chunk?: number;
  corrupt?: Corruption;
  json: boolean;
}

interface QuantizeFlags {
  bits: '8' | '4';
  force: boolean;
  json: boolean;
}

/** A line on stderr now and then; a terminal keeps only the last. */
function quantizeProgress(json: boolean): (tensor: string, fraction: number) => void {
  const { isTTY } = process.stderr;
  let shownMs = Number.NEGATIVE_INFINITY;
  return (tensor, fraction) => {
    const nowMs = performance.now();
    if (json || (nowMs - shownMs < (isTTY ? 100 : 2000) && fraction < 1)) return;
    shownMs = nowMs;
    const text = `${Math.floor(100 * fraction)} % ${fraction < 1 ? tensor : 'written'}`;
    process.stderr.write(isTTY ? `\r\u001b[K${text}${fraction < 1 ? '' : '\n'}` : `${text}\n`);
  };
}

function parseChunk(text: string): number {
  const chunk = Number(text);
  if (!Number.isInteger(chunk) || chunk < 1 || chunk > 2 ** 20) {
    throw new InvalidArgumentError('It must be a whole number of tokens from 1 to 1048576.');
  }
  return chunk;
}

/** rank:tensor:byte; tensor names hold dots, no colons. */
function parseCorruption(text: string): Corruption {
  const match = /^(\d{1,4}):([^:]+):(\d{1,15})$/.exec(text);
  if (match === null) {
    throw new InvalidArgumentError('Write RANK:TENSOR:BYTE, for example 1:lm_head.weight:4096.');
  }
  return { rank: Number(match[1]), tensor: match[2] ?? '', byte: Number(match[3]) };
}

function print(json: boolean, report: unknown, text: () => string): void {
  process.stdout.write(`${json ? JSON.stringify(report) : text()}\n`);
}

/** Before the command line is understood, so that errors about it have the chosen form too. */
const wantsJson = process.argv.includes('--json');

function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('what this host has for Hels: processor, GPUs and their libraries, or why none')
    .option('--json', 'the result as JSON', false)
    .action((flags: { json: boolean }) => {
      const report = examineHost();
      print(flags.json, report, () => describeHost(report));
    });
}

function buildProgram(): Command {
  const program = new Command('hels-model')
    .configureOutput({
      outputError: (text, write) => {
        if (!wantsJson) write(text);
      },
    })
    .exitOverride();
  program
    .command('verify')
    .description('run a model in this process over a split and compare it with reference logits')
    .requiredOption('--model <dir>', 'model directory')
    .requiredOption('--golden <file>', 'golden.json with reference logits')
    .option(
      '--ranks <h/w,...>',
      'head groups and relative FFN weight of each rank (default: one rank)',
    )
    .addOption(
      new Option('--dtype <type>', 'weights in memory; auto: bf16 for bf16 files, else f32')
        .choices(weightTypeOptions)
        .default('auto'),
    )
    .addOption(
      new Option('--quantization <type>', 'weights in memory: as the files, or quantised at load')
        .choices(quantizationOptions)
        .default('auto'),
    )
    .option('--chunk <n>', 'tokens of one prefill step (default: whole prompt)', parseChunk)
    .option(
      '--corrupt <rank:tensor:byte>',
      'flip a byte of what the rank loads of the tensor, counted from the start of its slice',
      parseCorruption,
    )
    .option('--json', 'the result as JSON', false)
    .action(async (flags: VerifyFlags) => {
      const report = await verifyModel({
        ...flags,
        ranks: flags.ranks ?? null,
        chunk: flags.chunk ?? null,
        corrupt: flags.corrupt ?? null,
      });
      print(flags.json, report, () => describeVerification(report));
      process.exitCode = report.passed ? 0 : 1;
    });
  program
    .command('inspect')
    .description('architecture, tensors, digest; names what Hels cannot serve')
    .requiredOption('--model <dir>', 'model directory')
    .option('--json', 'the result as JSON', false)
    .action(async (flags: { model: string; json: boolean }) => {
      const report = await inspectDirectory(flags.model);
      print(flags.json, report, () => describeInspection(report));
      process.exitCode = report.problems.length === 0 ? 0 : exitCodeOf['model-invalid'];
    });
  program
    .command('quantize')
    .description('write the model SOURCE with 8-bit or 4-bit weights as TARGET')
    .argument('<source>', 'model directory with f32, bf16 or f16 weights')
    .argument('<target>', 'directory to write')
    .addOption(
      new Option('--bits <n>', 'bits of a weight').choices(['8', '4']).makeOptionMandatory(),
    )
    .option('--force', 'replace a model directory that is at TARGET', false)
    .option('--json', 'the result as JSON', false)
    .action(async (source: string, target: string, flags: QuantizeFlags) => {
      const report = await quantizeModel({
        ...{ source, target, force: flags.force },
        bits: flags.bits === '8' ? 8 : 4,
        onProgress: quantizeProgress(flags.json),
      });
      print(flags.json, report, () => describeQuantization(report));
    });
  addDoctor(program);
  return program;
}

function report(error: HelsError): void {
  const { code, field, message } = error;
  process.stderr.write(
    wantsJson ? `${JSON.stringify({ error: { code, field, message } })}\n` : `error: ${message}\n`,
  );
  process.exitCode = exitCodeOf[code];
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  const failure = outputFailure(error);
  if (failure !== null) report(failure);
});

try {
  await buildProgram().parseAsync(process.argv);
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : exitCodeOf.usage;
    // Without --json commander has told it; help that was shown for want of a command is no message.
    if (error.exitCode !== 0 && error.code !== 'commander.help' && wantsJson) {
      report(new HelsError('usage', error.message.replace(/^error: /, '')));
    }
  } else {
    report(toHelsError(error));
  }
}
