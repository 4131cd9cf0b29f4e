import type { Command } from 'commander';
import { type Context, globalOptions, localCommand } from '../context.ts';
import { runTool, toolParameters } from '../run-tool.ts';

const options = [
  ['cluster <file>', 'a cluster file (YAML or JSON) that names device profiles'],
  ['model <path>', 'with --cluster: a config.json, or the directory that holds one'],
  [
    'context <n>',
    'with --cluster: tokens of a sequence that the plans are made for (default: 1024)',
  ],
  ['input <file>', 'instead of --cluster: plan-input.json, with latency lines'],
  [
    'trace <trace>',
    'a CSV file, or poisson:rate=2,count=1000,lengths=azure|sharegpt|openchat, gamma:...,variation=3, burst:count=9,prompt=64,output=64',
  ],
  ['requests <n>', 'only so many of the trace'],
  ['policy <names>', 'policies with commas, or all (default: all)'],
  [
    'sequences <n>',
    'sequences that run at once, planned and at most (default: 64, or as --input says)',
  ],
  [
    'prefill-chunk <n>',
    'tokens of one step, planned and at most (default: 512, or as --input says)',
  ],
  ['slo <targets>', 'what counts as goodput (default: ttft=1s,tpot=100ms)'],
  ['seed <n>', 'the same seed gives the same result (default: 1)'],
  ['noise <share>', 'relative standard deviation of the compute times (default: 0)'],
  ['control <time>', 'from the controller to the ranks and back (default: 0s)'],
  [
    'lose <changes>',
    'devices that fail, as DEVICE@TIME with commas: their epoch ends, the rest is planned anew',
  ],
  ['join <changes>', 'devices that come (back), as DEVICE@TIME with commas'],
  ['notice <time>', 'from the failure of a device to its notice (default: 5s, the lease)'],
  ['redeploy <time>', 'with --lose or --join: how long a deployment takes'],
  ['out <file>', 'where to write the plot, SVG'],
] as const;

export function addSimulateCommand(program: Command, context: Context): void {
  const simulate = localCommand(program.command('simulate')).description(
    'serve a trace of requests in virtual time under each policy, without hardware',
  );
  for (const [flags, description] of options) simulate.option(`--${flags}`, description);
  simulate.action(async (_options: object, command: Command) => {
    const json = globalOptions(command).json ? ['--json'] : [];
    const parameters = ['simulate', ...toolParameters(command), ...json];
    context.setExitCode(await runTool('controller/tools/main', parameters));
  });
}
