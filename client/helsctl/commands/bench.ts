import type { Command } from 'commander';
import { type Context, outputOf, withClient } from '../context.ts';
import { formatMilliseconds, formatTable } from '../output.ts';
import { type LoadReport, type RequestLoad, runRequestLoad } from '../request-load.ts';
import { parsePriority, parseWholeNumber } from '../values.ts';

interface BenchCommandOptions {
  streams: string;
  requests: string;
  promptTokens: string;
  maxTokens: string;
  seed: string;
  model?: string;
  priority: string;
}

const tokensMax = 2 ** 20;

function loadOf(options: BenchCommandOptions): RequestLoad {
  return {
    streams: parseWholeNumber(options.streams, '--streams', 1, 1024),
    requests: parseWholeNumber(options.requests, '--requests', 1, 1_000_000),
    promptTokens: parseWholeNumber(options.promptTokens, '--prompt-tokens', 1, tokensMax),
    outputTokens: parseWholeNumber(options.maxTokens, '--max-tokens', 1, tokensMax),
    seed: parseWholeNumber(options.seed, '--seed', 0, 2 ** 31),
    model: options.model ?? '',
    priority: parsePriority(options.priority),
  };
}

function formatReport(report: LoadReport, { streams }: RequestLoad): string {
  const { requests, failed, seconds, promptTokens, outputTokens, outputTokensPerSecond } = report;
  const failures = Object.entries(failed).map(([code, count]) => `${count} ${code}`);
  const row = (name: string, { p50, p95, p99 }: LoadReport['timeToFirstTokenSeconds']) => [
    name,
    ...[p50, p95, p99].map(formatMilliseconds),
  ];
  return [
    `${requests} requests in ${seconds.toFixed(1)} s, ${streams} at once; failed: ${failures.join(', ') || 'none'}`,
    `${promptTokens} prompt tokens, ${outputTokens} answer tokens: ${outputTokensPerSecond.toFixed(1)} answer tokens/s`,
    formatTable(
      ['', 'P50', 'P95', 'P99'],
      [row('TTFT', report.timeToFirstTokenSeconds), row('TPOT', report.timePerOutputTokenSeconds)],
    ),
  ].join('\n');
}

export function addBenchCommand(program: Command, context: Context): void {
  program
    .command('bench')
    .description('load the served model with requests of one shape: tokens/s, TTFT and TPOT')
    .option('--streams <n>', 'requests under way at once', '8')
    .option('--requests <n>', 'requests in all', '32')
    .option('--prompt-tokens <n>', 'length of a prompt', '128')
    .option('--max-tokens <n>', 'length of an answer', '64')
    .option('--seed <n>', 'other prompts for another seed', '0')
    .option('--model <id>', 'the served model (default: whatever is served)')
    .option('--priority <n>', 'lower goes first: -1000 to 1000', '0')
    .action(async (options: BenchCommandOptions, command: Command) => {
      const output = outputOf(context, command);
      const load = loadOf(options);
      const report = await withClient(command, (client) =>
        runRequestLoad(client, load, context.signal, (done) =>
          output.progress(`${done} of ${load.requests} answers`, done === load.requests),
        ),
      );
      output.result(report, () => formatReport(report, load));
      if (Object.keys(report.failed).length > 0) context.setExitCode(1);
    });
}
