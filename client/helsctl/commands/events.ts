import type { Command } from 'commander';
import { type Context, outputOf, withClient } from '../context.ts';

export function addEventsCommand(program: Command, context: Context): void {
  program
    .command('events')
    .description(
      'what happened lately: workers, deployments, drift of devices, changes of the plan',
    )
    .action(async (_options: object, command: Command) => {
      const output = outputOf(context, command);
      const { events } = await withClient(command, (client) => client.status());
      output.result(events, () =>
        events.length === 0
          ? 'nothing happened yet'
          : events
              .map(
                ({ unixMs, kind, message }) =>
                  `${new Date(unixMs).toISOString()} ${kind}: ${message}`,
              )
              .join('\n'),
      );
    });
}
