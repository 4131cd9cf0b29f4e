import type { Command } from 'commander';
import { type Context, outputOf, withClient } from '../context.ts';

export function addUndeployCommand(program: Command, context: Context): void {
  program
    .command('undeploy')
    .description('stop serving a model and free the workers; running requests end')
    .argument('<model>', "the model's name, as in helsctl get models")
    .action(async (model: string, _options: object, command: Command) => {
      const output = outputOf(context, command);
      await withClient(command, (client) => client.undeploy(model, { signal: context.signal }));
      output.result({ model, deployed: false }, () => `${model} is no longer deployed`);
    });
}
