import type { Command } from 'commander';
import { planPolicies } from '../../../proto/domain/plan.ts';
import { HelsError } from '../../sdk/index.ts';
import { type ApplyOptions, applyPlan, replanOptions } from '../apply-plan.ts';
import { type Context, globalOptions, outputOf, refuseConnection, withClient } from '../context.ts';
import { formatPlan } from '../plan-table.ts';
import { runTool, toolParameters } from '../run-tool.ts';

/** Options that make a plan from files: passed on to the tool as they are. */
const fileOptions = [
  ['input', '<file>', 'plan-input.json: model, workload and devices with their latency lines'],
  ['cluster', '<file>', 'what-if: a cluster file (YAML or JSON) that names device profiles'],
  ['model', '<path>', 'with --cluster: a config.json, or the directory that holds one'],
  [
    'sequences',
    '<n>',
    'with --cluster or --apply (1 to 1024): running sequences (default: 8; as deployed)',
  ],
  [
    'context',
    '<n>',
    'with --cluster or --apply: tokens of each sequence, and of the prompt of TTFT (default: 1024; as deployed)',
  ],
  [
    'prefill-chunk',
    '<n>',
    'with --cluster or --apply (1 to 8192): tokens of a prefill step (default: 512; as deployed)',
  ],
  [
    'policy',
    '<names>',
    `one of ${planPolicies.join(', ')}; with --cluster several with commas, or all (default: all)`,
  ],
  ['step-seconds-max', '<s>', 'with --cluster: report the largest batch within this decode step'],
  ['tokens-per-second-min', '<n>', 'with --cluster: report the smallest batch of this throughput'],
] as const;

interface PlanCommandOptions extends ApplyOptions {
  apply?: boolean;
  [option: string]: unknown;
}

/** What is served has its own devices and its own model. */
function refuseFileOptions(options: PlanCommandOptions): void {
  const foreign = ['input', 'cluster', 'model', 'explain', 'stepSecondsMax', 'tokensPerSecondMin'];
  const given = foreign.find((name) => options[name] !== undefined);
  if (given === undefined) return;
  const option = given.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new HelsError(
    'usage',
    `--${option}: it makes a plan from files; --apply is about what is being served`,
  );
}

export function addPlanCommand(program: Command, context: Context): void {
  const plan = program
    .command('plan')
    .description(
      'the plan being served; with --input or --cluster, a plan computed from files alone (what-if)',
    );
  for (const [name, value, description] of fileOptions)
    plan.option(`--${name} ${value}`, description);
  plan
    .option('--apply', 'plan anew for the model being served and move its requests to that plan')
    .option('--ranks <split>', 'with --apply: a split by hand: WORKER=HEADGROUPS/FFNWEIGHT,...')
    .option('--explain', 'with --input or --cluster: what binds, who waits, what would change it')
    .action(async (options: PlanCommandOptions, command: Command) => {
      if (options.apply === true) {
        refuseFileOptions(options);
        const output = outputOf(context, command);
        const wanted = replanOptions(options);
        await withClient(command, (client) => applyPlan(client, wanted, output, context.signal));
        return;
      }
      if (options.ranks !== undefined) {
        throw new HelsError('usage', '--ranks: it is for --apply, or for helsctl deploy');
      }
      const parameters = toolParameters(command);
      if (parameters.length > 0) {
        refuseConnection(command);
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
