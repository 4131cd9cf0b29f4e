import type { Command } from 'commander';
import { formatBytes } from '../../../proto/domain/device.ts';
import { type HelsClient, HelsError, type PlanReport, type Status } from '../../sdk/index.ts';
import { type Context, outputOf, withClient } from '../context.ts';
import { formatMilliseconds, formatTable } from '../output.ts';
import { describeDevice, describeState, describeVersion } from '../plan-table.ts';

/** What there is of one kind: each item as the API has it, under a name, and as a row. */
interface Listing {
  readonly header: string[];
  readonly items: { name: string; value: unknown; row: string[] }[];
}

function workersOf({ workers, version }: Status): Listing {
  return {
    header: ['worker', 'state', 'address', 'device', 'last heartbeat', 'version'],
    items: workers.map((worker) => ({
      name: worker.workerId,
      value: worker,
      row: [
        worker.workerId,
        describeState(worker),
        worker.address,
        describeDevice(worker.device),
        `${worker.heartbeatAgeSeconds.toFixed(1)} s`,
        describeVersion(worker, version),
      ],
    })),
  };
}

/** One at most: a controller serves one model. */
function modelsOf(status: Status): Listing {
  const { modelId, modelDigest, numericsClass, exactNumerics, state, epoch, detail } = status;
  const value = { modelId, modelDigest, numericsClass, exactNumerics, state, epoch, detail };
  const row = [modelId, state, `${epoch}`, numericsClass || '-', modelDigest.slice(0, 16)];
  return {
    header: ['model', 'state', 'epoch', 'numerics', 'digest'],
    items: modelId === '' ? [] : [{ name: modelId, value, row }],
  };
}

const sizeOf = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

function ranksOf(report: PlanReport | null): Listing {
  const { plan = null, ranks = [] } = report ?? {};
  return {
    header: [
      'rank',
      'worker',
      'heads',
      'FFN columns',
      'vocabulary rows',
      'weights',
      'KV',
      'predicted',
      'measured',
    ],
    items: (plan?.ranks ?? []).map((rank, index) => ({
      name: rank.workerId,
      value: rank,
      row: [
        `${rank.rank}`,
        rank.workerId,
        ...[rank.headGroups, rank.ffnColumns, rank.vocabRows].map((range) => `${sizeOf(range)}`),
        formatBytes(rank.weightBytes),
        formatBytes(rank.kvBytes),
        formatMilliseconds(ranks[index]?.predictedDecodeSeconds ?? 0),
        formatMilliseconds(ranks[index]?.measuredDecodeSeconds ?? 0),
      ],
    })),
  };
}

/** Without a plan there are no ranks, as without a model there are no models. */
async function planOrNull(client: HelsClient): Promise<PlanReport | null> {
  try {
    return await client.plan();
  } catch (error) {
    if (error instanceof HelsError && error.code === 'not-ready') return null;
    throw error;
  }
}

const kinds = ['workers', 'models', 'ranks'] as const;
type Kind = (typeof kinds)[number];

/** Also in the singular. Throws usage. */
function kindOf(text: string): Kind {
  const kind = kinds.find((candidate) => candidate === text || candidate === `${text}s`);
  if (kind !== undefined) return kind;
  throw new HelsError('usage', `kind: '${text}' is not one of ${kinds.join(', ')}`);
}

/** The one of that name, or all. Throws not-found with the names that there are. */
function named({ header, items }: Listing, kind: Kind, name: string | undefined): Listing {
  if (name === undefined) return { header, items };
  const found = items.filter((item) => item.name === name);
  if (found.length > 0) return { header, items: found };
  const there = items.map((item) => item.name).join(', ') || 'none';
  throw new HelsError('not-found', `${kind}: there is no '${name}'; there are: ${there}`);
}

export function addGetCommand(program: Command, context: Context): void {
  program
    .command('get')
    .description('list workers, models or the ranks of the plan, or one of them by its name')
    .argument('<kind>', kinds.join(', '))
    .argument('[name]', "the worker's or model's")
    .action(async (text: string, name: string | undefined, _options: object, command: Command) => {
      const kind = kindOf(text);
      const listing = await withClient(command, async (client) => {
        if (kind === 'ranks') return ranksOf(await planOrNull(client));
        const status = await client.status();
        return kind === 'workers' ? workersOf(status) : modelsOf(status);
      });
      const { header, items } = named(listing, kind, name);
      const values = items.map(({ value }) => value);
      outputOf(context, command).result(name === undefined ? values : values[0], () =>
        items.length === 0
          ? `no ${kind}`
          : formatTable(
              header,
              items.map(({ row }) => row),
            ),
      );
    });
}
