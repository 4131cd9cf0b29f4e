import type { Command } from 'commander';
import { type Context, globalOptions, outputOf, withClient } from '../context.ts';
import { formatPlan } from '../plan-table.ts';
import { runTool, toolParameters } from '../run-tool.ts';

/** Options that make a plan from files: passed on to the tool as they are. */
const fileOptions = [
  ['input', '<file>', 'plan-input.json: model, workload and devices with their latency lines'],
  ['cluster', '<file>', 'what-if: a cluster file (YAML or JSON) that names device profiles'],
  ['model', '<path>', 'with --cluster: a config.json, or the directory that holds one'],
  ['sequences', '<n>', 'with --cluster: running sequences (default: 8)'],
  [
    'context',
    '<n>',
    'with --cluster: tokens of each sequence, and of the prompt of TTFT (default: 1024)',
  ],
  ['prefill-chunk', '<n>', 'with --cluster: tokens of a prefill step (default: 512)'],
  ['policy', '<names>', 'one policy; with --cluster several with commas, or all (default: all)'],
  ['step-seconds-max', '<s>', 'with --cluster: report the largest batch within this decode step'],
  ['tokens-per-second-min', '<n>', 'with --cluster: report the smallest batch of this throughput'],
] as const;

export function addPlanCommand(program: Command, context: Context): void {
  const plan = program
    .command('plan')
    .description(
      'the plan being served; with --input or --cluster, a plan computed from files alone (what-if)',
    );
  for (const [name, value, description] of fileOptions)
    plan.option(`--${name} ${value}`, description);
  plan
    .option('--explain', 'with --input or --cluster: what binds, who waits, what would change it')
    .action(async (_options: object, command: Command) => {
      const parameters = toolParameters(command);
      if (parameters.length > 0) {
        const json = globalOptions(command).json ? ['--json'] : [];
        context.setExitCode(
          await runTool('controller/tools/main', ['plan', ...parameters, ...json]),
        );
        return;
      }
      const output = outputOf(context, command);
      const report = await withClient(command, (client) => client.plan());
      output.result(report, () => formatPlan(report));
    });
}
