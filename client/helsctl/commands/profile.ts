import { resolve } from 'node:path';
import type { Command } from 'commander';
import { HelsError, type ProfileReport } from '../../sdk/index.ts';
import { type Context, outputOf, withClient } from '../context.ts';
import { formatTable } from '../output.ts';
import { describeDevice } from '../plan-table.ts';

type WorkerProfile = ProfileReport['workers'][number];
type PhaseProfile = WorkerProfile['phases'][number];

const terms = [
  ['constant', 'constant'],
  ['perHeadGroup', 'head group'],
  ['perFfnColumn', 'FFN column'],
  ['perVocabRow', 'vocab row'],
  ['perTokenHeadGroup', 'token*head'],
  ['perTokenFfnColumn', 'token*column'],
  ['perTokenVocabRow', 'token*row'],
  ['perContextHeadGroup', 'context*head'],
] as const;

const percent = (value: number) => `${value.toFixed(1)} %`;
const coefficient = (value: number) => (value === 0 ? '0' : value.toExponential(2));

function formatLines(phases: readonly PhaseProfile[]): string {
  const rows = phases.flatMap((phase) =>
    phase.lines.map((line, index) => [
      phase.phase,
      `${index + 1}`,
      ...terms.map(([term]) => coefficient(line[term])),
    ]),
  );
  return formatTable(['phase', 'line', ...terms.map(([, name]) => name)], rows);
}

function formatErrors(phases: readonly PhaseProfile[]): string {
  const rows = phases.flatMap((phase) =>
    phase.heldOut.map((bucket) => [
      phase.phase,
      bucket.tokens === 0 ? 'all' : `${bucket.tokens}`,
      `${bucket.points}`,
      percent(bucket.meanPercent),
      percent(bucket.medianPercent),
      percent(bucket.percentile95Percent),
    ]),
  );
  return formatTable(['held out', 'tokens', 'points', 'mean', 'median', '95th'], rows);
}

function formatWorker(worker: WorkerProfile): string {
  const when = new Date(worker.measuredUnixMs).toISOString();
  const source = worker.stored ? 'stored' : 'measured now';
  const link = `${(worker.linkConstant * 1e6).toFixed(0)} us + ${(worker.linkPerToken * 1e6).toFixed(2)} us a token`;
  const conditions = worker.phases
    .filter(({ phase }) => phase !== 'mixed')
    .map(({ phase, points, conditionNumber, unidentifiedTerms }) => {
      const dropped =
        unidentifiedTerms.length === 0 ? 'none dropped' : `dropped ${unidentifiedTerms.join(', ')}`;
      return `${phase}: ${points} points, condition number ${conditionNumber.toFixed(0)}, ${dropped}`;
    });
  return [
    `${worker.workerId}  ${describeDevice(worker.device)}`,
    `${source}: ${when}, took ${worker.seconds.toFixed(1)} s; kernels ${worker.device?.implementation ?? '-'}`,
    `link ${link}; host memory copy ${(worker.copyBytesPerSecond / 1e9).toFixed(1)} GB/s`,
    ...conditions,
    '',
    'seconds per',
    formatLines(worker.phases),
    '',
    formatErrors(worker.phases),
  ].join('\n');
}

function formatProfile(report: ProfileReport): string {
  return [`model ${report.modelId}`, ...report.workers.map(formatWorker)].join('\n\n');
}

interface ProfileCommandOptions {
  model?: string;
  refresh: boolean;
}

export function addProfileCommand(program: Command, context: Context): void {
  program
    .command('profile')
    .description("the workers' latency lines for a model's shapes, and how far to trust them")
    .option('--model <dir>', 'model directory (default: the model being served)')
    .option('--refresh', 'measure again what is stored', false)
    .action(async (options: ProfileCommandOptions, command: Command) => {
      const output = outputOf(context, command);
      const request = {
        ...(options.model === undefined ? {} : { modelPath: resolve(options.model) }),
        refresh: options.refresh,
      };
      await withClient(command, async (client) => {
        for await (const event of client.profile(request, { signal: context.signal })) {
          if (event.type === 'ready') {
            output.result(event.report, () => formatProfile(event.report));
            return;
          }
          output.progress(`${event.message} ${Math.round(event.fraction * 100)} %`);
        }
        throw new HelsError('internal', 'profiling ended without a result');
      });
    });
}
