import type { Command } from 'commander';
import { type Context, globalOptions, outputOf, withClient } from '../context.ts';
import { formatPlan } from '../plan-table.ts';
import { runTool } from '../run-tool.ts';

export function addPlanCommand(program: Command, context: Context): void {
  program
    .command('plan')
    .description('the plan being served; with --input, a plan computed from a file alone (what-if)')
    .option(
      '--input <file>',
      'plan-input.json: model, workload and devices with their latency lines',
    )
    .action(async (options: { input?: string }, command: Command) => {
      if (options.input !== undefined) {
        const json = globalOptions(command).json ? ['--json'] : [];
        context.setExitCode(
          await runTool('controller/tools/main', ['plan', '--input', options.input, ...json]),
        );
        return;
      }
      const output = outputOf(context, command);
      const report = await withClient(command, (client) => client.plan());
      output.result(report, () => formatPlan(report));
    });
}
