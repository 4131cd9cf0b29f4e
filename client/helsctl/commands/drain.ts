import type { Command } from 'commander';
import { HelsError } from '../../sdk/index.ts';
import { followMove, formatMove } from '../apply-plan.ts';
import { type Context, outputOf, withClient } from '../context.ts';

export function addDrainCommand(program: Command, context: Context): void {
  program
    .command('drain')
    .description(
      'take a worker out of service: its work moves to the others, running requests go on, and no later plan uses it',
    )
    .argument('<worker>', "the worker's name, as in helsctl get workers")
    .option('--undo', 'plans may use the worker again')
    .action(async (worker: string, options: { undo?: boolean }, command: Command) => {
      if (worker === '') throw new HelsError('usage', "WORKER: '' is not the name of a worker");
      const output = outputOf(context, command);
      await withClient(command, async (client) => {
        if (options.undo === true) {
          await client.undrain(worker, { signal: context.signal });
          output.result({ worker, drained: false }, () => `plans may use ${worker} again`);
          return;
        }
        const events = client.drain(worker, { signal: context.signal });
        const { proposal, done } = await followMove(events, output);
        const { replan, report } = done;
        output.result({ worker, drained: true, proposal, replan, report }, () => {
          const how = report === null || replan === null ? '' : `${formatMove(report, replan)}\n`;
          return `${how}${worker} is drained: it serves nothing, and may be stopped`;
        });
      });
    });
}
