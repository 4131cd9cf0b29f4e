import type { Command } from 'commander';
import { type Context, globalOptions, localCommand } from '../context.ts';
import { runTool, toolParameters } from '../run-tool.ts';

/** The values the user gave, as parameters for the tool that does the work. */
function forward(options: Record<string, unknown>, command: Command): string[] {
  const given = Object.entries(options).flatMap(([name, value]) =>
    typeof value === 'string' ? [`--${name}`, value] : [],
  );
  return globalOptions(command).json ? [...given, '--json'] : given;
}

function addQuantizeCommand(model: Command, context: Context): void {
  model
    .command('quantize')
    .description('write the model SOURCE with 8-bit or 4-bit weights as TARGET')
    .argument('<source>', 'model directory with f32, bf16 or f16 weights')
    .argument('<target>', 'directory to write')
    .requiredOption('--bits <n>', 'bits of a weight: 8 or 4')
    .option('--force', 'replace a model directory that is at TARGET')
    .action(async (source: string, target: string, _options: object, command: Command) => {
      const json = globalOptions(command).json ? ['--json'] : [];
      const parameters = ['quantize', ...toolParameters(command), ...json, '--', source, target];
      context.setExitCode(await runTool('worker/tools/main', parameters));
    });
}

export function addModelCommands(program: Command, context: Context): void {
  const model = localCommand(program.command('model').description('look into model directories'));
  model
    .command('inspect')
    .description('architecture, tensors, digest; names what Hels cannot serve')
    .requiredOption('--model <dir>', 'model directory')
    .action(async (options: { model: string }, command: Command) => {
      const { model: directory } = options;
      const parameters = forward({ model: directory }, command);
      context.setExitCode(await runTool('worker/tools/main', ['inspect', ...parameters]));
    });
  model
    .command('verify')
    .description('run a model in this process over a split and compare it with reference logits')
    .requiredOption('--model <dir>', 'model directory')
    .requiredOption('--golden <file>', 'golden.json with reference logits')
    .option(
      '--ranks <h/w,...>',
      'head groups and relative FFN weight of each rank (default: one rank)',
    )
    .option('--dtype <type>', 'auto (bf16 for bf16 files, else f32), f32, bf16 or f16')
    .option('--quantization <type>', 'auto (as the files), int8 or int4')
    .option('--chunk <n>', 'prefill chunk in tokens (default: whole prompt)')
    .option(
      '--corrupt <rank:tensor:byte>',
      'flip a byte of what the rank loads of the tensor, counted from the start of its slice',
    )
    .action(async (_options: object, command: Command) => {
      const options = command.opts<Record<string, unknown>>();
      context.setExitCode(
        await runTool('worker/tools/main', ['verify', ...forward(options, command)]),
      );
    });
  addQuantizeCommand(model, context);
}
