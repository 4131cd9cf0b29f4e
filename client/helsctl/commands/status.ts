import type { Command } from 'commander';
import type { Status } from '../../sdk/index.ts';
import { type Context, outputOf, withClient } from '../context.ts';
import { formatTable } from '../output.ts';
import { describeDevice, describeNumerics, describeState, describeVersion } from '../plan-table.ts';

/** The newest; all are in `helsctl events`. */
const eventsShown = 10;

/** Empty before anything was served. */
function predictionLines(status: Status): string[] {
  const rows = status.predictions
    .filter(({ steps }) => steps > 0)
    .map((rank) => [
      rank.workerId,
      rank.ratio.toFixed(2),
      `${rank.errorMedianPercent.toFixed(1)} %`,
      `${rank.refinedErrorMedianPercent.toFixed(1)} %`,
      `${rank.steps}`,
      rank.linkRatio > 0 ? rank.linkRatio.toFixed(2) : '-',
      rank.drifted ? 'drifted' : '',
    ]);
  const header = [
    'worker',
    'measured/predicted',
    'error',
    'error refined',
    'decode steps',
    'link measured/predicted',
    '',
  ];
  const table = rows.length > 0 ? ['', formatTable(header, rows)] : [];
  const events = status.events
    .slice(-eventsShown)
    .map(({ unixMs, kind, message }) => `${new Date(unixMs).toISOString()} ${kind}: ${message}`);
  return events.length > 0 ? [...table, '', ...events] : table;
}

/** Nothing where nothing can be parked. */
function parkedText(status: Status): string {
  if (status.kvParkedBlocksTotal === 0) return '';
  return `, ${status.kvParkedBlocksUsed} of ${status.kvParkedBlocksTotal} parked`;
}

/** Empty while all KV is on its own device and none waits. */
function kvLines(status: Status): string[] {
  const elsewhere = status.rankKv.some(
    ({ remoteTokens, parkedTokens, droppedTokens }) =>
      remoteTokens + parkedTokens + droppedTokens > 0,
  );
  if (!elsewhere) return [];
  const rows = status.rankKv.map((rank) => [
    rank.workerId,
    ...[rank.residentTokens, rank.remoteTokens, rank.heldTokens].map(String),
    ...[rank.parkedTokens, rank.parkedHostTokens, rank.droppedTokens].map(String),
  ]);
  const header = [
    ...['worker', 'KV tokens resident', 'remote', 'held for others'],
    ...['parked', 'of it in host memory', 'dropped'],
  ];
  const tax = `recompute tax ${(100 * status.recomputeTax).toFixed(1)} %`;
  return ['', formatTable(header, rows), tax];
}

/** Empty before the first one. */
function replanLines({ lastReplan, replans }: Status): string[] {
  if (lastReplan === null) return [];
  const { fromEpoch, epoch, trigger, outcome, pauseSeconds, predicted } = lastReplan;
  const [pause, expected] = [pauseSeconds, predicted?.seconds ?? 0].map((s) => s.toFixed(2));
  return [
    `re-plans ${replans}, the last one epoch ${fromEpoch} -> ${epoch} (${trigger}, ${outcome}): pause ${pause} s, predicted ${expected} s`,
  ];
}

/** Empty while no KV made room or lay elsewhere. */
function pathLines(status: Status): string[] {
  if (status.kvPaths.length === 0) return [];
  const rows = status.kvPaths.map((path) => [
    path.path,
    `${path.predictedSeconds.toFixed(3)} s`,
    `${path.measuredSeconds.toFixed(3)} s`,
    path.ratio.toFixed(2),
    `${path.errorMedianPercent.toFixed(1)} %`,
    `${path.refinedErrorMedianPercent.toFixed(1)} %`,
    `${path.steps}`,
  ]);
  const header = ['KV path', 'predicted', 'measured', 'ratio', 'error', 'error refined', 'steps'];
  return ['', formatTable(header, rows)];
}

function formatStatus(status: Status): string {
  const model = status.modelId === '' ? 'no model' : `model ${status.modelId}`;
  const detail = status.detail === '' ? '' : ` (${status.detail})`;
  const atMost = status.sequencesMax > 0 ? ` of at most ${status.sequencesMax}` : '';
  const lines = [
    `${status.state}${detail}: ${model}, epoch ${status.epoch}, term ${status.term}, numerics ${describeNumerics(status) || '-'}`,
    `requests ${status.requestsRunning} running${atMost}, ${status.requestsWaiting} waiting; KV blocks ${status.kvBlocksUsed} of ${status.kvBlocksTotal} used${parkedText(status)}; ${status.steps} steps`,
    ...replanLines(status),
  ];
  if (status.workers.length === 0) return [...lines, 'no workers registered'].join('\n');
  const rows = status.workers.map((worker) => [
    worker.workerId,
    describeState(worker),
    worker.address,
    describeDevice(worker.device),
    `${worker.heartbeatAgeSeconds.toFixed(1)} s`,
    describeVersion(worker, status.version),
  ]);
  const header = ['worker', 'state', 'address', 'device', 'last heartbeat', 'version'];
  const tables = [...kvLines(status), ...pathLines(status), ...predictionLines(status)];
  return [...lines, formatTable(header, rows), ...tables].join('\n');
}

export function addStatusCommand(program: Command, context: Context): void {
  program
    .command('status')
    .description('what is served, by which workers, how busy')
    .action(async (_options: object, command: Command) => {
      const output = outputOf(context, command);
      const status = await withClient(command, (client) => client.status());
      output.result(status, () => formatStatus(status));
    });
}
