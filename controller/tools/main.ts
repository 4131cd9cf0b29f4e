import { performance } from 'node:perf_hooks';
import { exitCodeOf, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { planCommand } from './plan-command.ts';

const usage = `Usage: node dist/controller/tools/main.js plan --input FILE [--policy NAME] [--explain] [--json]
       node dist/controller/tools/main.js plan --cluster FILE --model FILE [--sequences N] [--context N] [--prefill-chunk N]
            [--policy A,B | all] [--step-seconds-max S] [--tokens-per-second-min N] [--explain] [--json]

Computes a plan from files alone (docs/planner.md). FILE may be - for standard input.
Exit codes: 0 the plan was computed (feasible or not: see "feasible"), 2 wrong usage, 3 bad input or cluster, 4 bad model.
`;

async function run([command, ...args]: string[]): Promise<string> {
  if (command === '--help' || command === '-h' || args.includes('--help')) return usage;
  if (command !== 'plan') {
    throw new HelsError('usage', `'${command ?? ''}' is not a command; the command is plan`);
  }
  return await planCommand(args, () => performance.now());
}

try {
  process.stdout.write(await run(process.argv.slice(2)));
} catch (error) {
  const failure = toHelsError(error);
  const { code, message, field } = failure;
  const json = process.argv.includes('--json');
  process.stderr.write(
    json ? `${JSON.stringify({ error: { code, message, field } })}\n` : `${message}\n`,
  );
  process.exitCode = exitCodeOf[failure.code];
}
