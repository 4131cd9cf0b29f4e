#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import { outputFailure } from '../../proto/base/output-failure.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { addBenchCommand } from './commands/bench.ts';
import { addChatCommand } from './commands/chat.ts';
import { addDeployCommand } from './commands/deploy.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addDrainCommand } from './commands/drain.ts';
import { addEventsCommand } from './commands/events.ts';
import { addGetCommand } from './commands/get.ts';
import { addModelCommands } from './commands/model.ts';
import { addPlanCommand } from './commands/plan.ts';
import { addProfileCommand } from './commands/profile.ts';
import { addSimulateCommand } from './commands/simulate.ts';
import { addStatusCommand } from './commands/status.ts';
import { addUndeployCommand } from './commands/undeploy.ts';
import { addUpCommands } from './commands/up.ts';
import { addVersionCommand, versionText } from './commands/version.ts';
import type { Context } from './context.ts';
import { reportError } from './output.ts';

/** Before the command line is understood, so that errors about it have the chosen form too. */
const wantsJson = process.argv.includes('--json');

/** Or in the environment: HELS_TLS_CA, HELS_TLS_CERT, HELS_TLS_KEY. */
function tlsOption(flags: string, description: string): Option {
  const option = new Option(flags, `mutual TLS: ${description}`);
  return option.env(`HELS_${option.name().replace('-', '_').toUpperCase()}`);
}

function buildProgram(context: Context): Command {
  const program = new Command('helsctl')
    .description('heterogeneity-aware LLM serving: deploy, look, ask')
    .addOption(
      new Option(
        '--address <host:port,...>',
        'gRPC address of the controller; of several, in the order in which they are tried',
      )
        .env('HELS_ADDRESS')
        .default('127.0.0.1:7070'),
    )
    .addOption(tlsOption('--tls-ca <file>', 'authority of the controller (PEM)'))
    .addOption(tlsOption('--tls-cert <file>', 'own certificate (PEM)'))
    .addOption(tlsOption('--tls-key <file>', 'key of --tls-cert (PEM)'))
    .option('--json', 'results and errors as JSON', false)
    .version(versionText(wantsJson), '--version', 'version of Hels and of Node.js')
    .addHelpText(
      'after',
      '\nExit codes: 0 ok, 1 other, 2 usage, 3 config, 4 model, 5 unreachable, 6 denied',
    )
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      outputError: (text, write) => {
        if (!wantsJson) write(text);
      },
    })
    .exitOverride();
  addUpCommands(program, context);
  addDeployCommand(program, context);
  addUndeployCommand(program, context);
  addStatusCommand(program, context);
  addGetCommand(program, context);
  addPlanCommand(program, context);
  addDrainCommand(program, context);
  addEventsCommand(program, context);
  addProfileCommand(program, context);
  addSimulateCommand(program, context);
  addChatCommand(program, context);
  addBenchCommand(program, context);
  addModelCommands(program, context);
  addDoctorCommand(program, context);
  addVersionCommand(program, context);
  return program;
}

function abortOnSignals(controller: AbortController): void {
  let count = 0;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      count += 1;
      controller.abort(new HelsError('cancelled', `stopped by ${signal}`));
      // A second Ctrl-C does not wait for the drain.
      if (count > 1) process.exit(1);
    });
  }
}

/** Ends the command. */
function abortOnClosedOutput(controller: AbortController): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    const failure = outputFailure(error);
    // The command may be over, or end as if all were well.
    if (failure !== null) process.exitCode = reportError(failure, wantsJson, process.stderr);
    controller.abort(failure ?? new HelsError('cancelled', 'the reader of the output ended'));
  });
}

async function main(): Promise<void> {
  const controller = new AbortController();
  abortOnSignals(controller);
  abortOnClosedOutput(controller);
  const context: Context = {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    signal: controller.signal,
    setExitCode: (code) => {
      process.exitCode = code;
    },
  };
  try {
    await buildProgram(context).parseAsync(process.argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      // Help that was shown for want of a command is no message.
      if (error.exitCode === 0 || error.code === 'commander.help' || !wantsJson) return;
      const usage = new HelsError('usage', error.message.replace(/^error: /, ''));
      process.exitCode = reportError(usage, wantsJson, process.stderr);
      return;
    }
    const failure = toHelsError(error);
    // What was under way says only that it was cancelled; the reason of the abort says why.
    const stopped = failure.code === 'cancelled' && controller.signal.aborted;
    // That the output failed has been told.
    if (stopped && toHelsError(controller.signal.reason).code === 'internal') return;
    process.exitCode = reportError(
      stopped ? toHelsError(controller.signal.reason) : failure,
      wantsJson,
      process.stderr,
    );
  }
}

await main();
