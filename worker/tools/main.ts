#!/usr/bin/env node
/** `verify` and `inspect`: what `helsctl model` runs as a child process, because only the worker's side may load the addon. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { exitCodeOf, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { type WeightTypeOption, weightTypeOptions } from '../../proto/domain/model-config.ts';
import { inspectDirectory } from './inspect.ts';
import { describeInspection, describeVerification } from './tables.ts';
import { type Corruption, verifyModel } from './verify.ts';

interface VerifyFlags {
  model: string;
  golden: string;
  ranks?: string;
  dtype: WeightTypeOption;
  chunk?: number;
  corrupt?: Corruption;
  json: boolean;
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
      new Option('--dtype <type>', 'how weights are kept in memory')
        .choices(weightTypeOptions)
        .default('auto'),
    )
    .option('--chunk <n>', 'tokens of one prefill step (default: whole prompt)', parseChunk)
    .option(
      '--corrupt <rank:tensor:byte>',
      "flip a byte in the named rank's loaded slice",
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
  return program;
}

function report(error: HelsError): void {
  const { code, field, message } = error;
  process.stderr.write(
    wantsJson ? `${JSON.stringify({ error: { code, field, message } })}\n` : `error: ${message}\n`,
  );
  process.exitCode = exitCodeOf[code];
}

// The reader of a pipe may end first (`| head`): that is no failure to trace.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
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
