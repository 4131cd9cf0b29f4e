import { performance } from 'node:perf_hooks';
import { outputFailure } from '../../proto/base/output-failure.ts';
import { exitCodeOf, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { planCommand } from './plan-command.ts';
import { simulateCommand } from './simulate-command.ts';

const usage = `Usage: node dist/controller/tools/main.js plan --input FILE [--policy NAME] [--explain] [--json]
       node dist/controller/tools/main.js plan --cluster FILE --model FILE [--sequences N] [--context N] [--prefill-chunk N]
            [--policy A,B | all] [--step-seconds-max S] [--tokens-per-second-min N] [--explain] [--json]
       node dist/controller/tools/main.js simulate (--cluster FILE --model FILE [--context N] | --input FILE)
            --trace FILE|poisson:rate=R,count=N,lengths=NAME|gamma:rate=R,variation=V,...|burst:count=N,prompt=N,output=N
            [--policy A,B | all] [--sequences N] [--prefill-chunk N] [--requests N] [--slo ttft=1s,tpot=100ms] [--seed N]
            [--noise SHARE] [--control TIME] [--lose DEVICE@TIME,...] [--join DEVICE@TIME,...] [--notice TIME] [--redeploy TIME]
            [--out FILE.svg] [--json]

plan computes a plan from files alone (docs/planner.md); simulate serves a trace under it in virtual time (docs/simulator.md).
FILE may be - for standard input, but for a trace.
Exit codes: 0 computed (also when a plan is not feasible: see "feasible" and "reason"), 2 wrong usage, 3 bad input or cluster, 4 bad model.
`;

async function run([command, ...args]: string[]): Promise<string> {
  if (command === '--help' || command === '-h' || args.includes('--help')) return usage;
  if (command === 'plan') return await planCommand(args, () => performance.now());
  if (command === 'simulate') return await simulateCommand(args);
  throw new HelsError(
    'usage',
    `'${command ?? ''}' is not a command; the commands are plan and simulate`,
  );
}

function report({ code, message, field }: HelsError): void {
  const json = process.argv.includes('--json');
  process.stderr.write(
    json ? `${JSON.stringify({ error: { code, message, field } })}\n` : `error: ${message}\n`,
  );
  process.exitCode = exitCodeOf[code];
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  const failure = outputFailure(error);
  if (failure !== null) report(failure);
});

try {
  process.stdout.write(await run(process.argv.slice(2)));
} catch (error) {
  report(toHelsError(error));
}
