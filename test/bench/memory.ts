/** Memory and descriptors of the daemons of a benchmark, after a full collection of garbage: what a leak adds to and warming does not. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { eventually } from '../support/deadline.ts';
import { type ProcessResources, resourcesOf } from '../support/process-resources.ts';
import { atMost, type Goal, type Table } from './benchmark.ts';
import { median, medianSlope } from './statistics.ts';

const probe = fileURLToPath(new URL('../support/memory-probe.mjs', import.meta.url));
const answerDeadlineMs = 10_000;
/** Kept at the size that it starts with: V8 would let it grow to 16 times that under load, in every thread, which hides a leak. */
const youngGeneration = '--max-semi-space-size=1';

interface Memory {
  residentBytes: number;
  /** JavaScript objects that can be reached, and what they hold outside of the heap. */
  liveBytes: number;
  /** All that is resident outside of V8's heap: weights, KV, malloc, code and libraries. */
  nativeBytes: number;
}

interface Sample extends Memory, ProcessResources {
  /** Requests or deployments so far. */
  work: number;
}

/** Growth per unit of work that is no noise any more. */
export interface GrowthBounds {
  /** As tables say it: `10,000 requests`. */
  unit: string;
  unitWork: number;
  liveKiBMax: number;
  nativeMiBMax: number;
}

/** Watches daemons that were started within `use`. */
export class MemoryWatch {
  readonly #directory: string;
  readonly #samples = new Map<string, Sample[]>();

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async during<Result>(use: (watch: MemoryWatch) => Promise<Result>): Promise<Result> {
    const directory = mkdtempSync(join(tmpdir(), 'hels-memory-'));
    const { NODE_OPTIONS: before } = process.env;
    process.env['NODE_OPTIONS'] = `${before ?? ''} ${youngGeneration} --import ${probe}`;
    process.env['HELS_MEMORY_PROBE'] = directory;
    try {
      return await use(new MemoryWatch(directory));
    } finally {
      if (before === undefined) delete process.env['NODE_OPTIONS'];
      else process.env['NODE_OPTIONS'] = before;
      delete process.env['HELS_MEMORY_PROBE'];
      rmSync(directory, { recursive: true, force: true });
    }
  }

  /** One sample of every process; they should have nothing to do. */
  async sample(processIds: ReadonlyMap<string, number>, work: number): Promise<void> {
    for (const [name, processId] of processIds) {
      const memory = await this.#memoryOf(name, processId);
      const samples = this.#samples.get(name) ?? [];
      this.#samples.set(name, [...samples, { work, ...memory, ...resourcesOf(processId) }]);
    }
  }

  async #memoryOf(name: string, processId: number): Promise<Memory> {
    const file = join(this.#directory, `${processId}.json`);
    rmSync(file, { force: true });
    process.kill(processId, 'SIGUSR2');
    return await eventually(
      answerDeadlineMs,
      `the memory of ${name}`,
      () => JSON.parse(readFileSync(file, 'utf8')) as Memory,
    );
  }

  /** Of the samples whose work is above `warmUpWork`. */
  findings(warmUpWork: number, bounds: GrowthBounds): { tables: Table[]; goals: Goal[] } {
    const rows = [...this.#samples].map(([daemon, samples]) => {
      const all = growthOf(samples, bounds.unitWork);
      const warm = samples.filter(({ work }) => work > warmUpWork);
      return { daemon, all, warm: growthOf(warm, bounds.unitWork), samples: warm };
    });
    const title = `memory of the daemons after a full collection, growth per ${bounds.unit}`;
    return {
      tables: [
        {
          title,
          rows: rows.map(({ daemon, all, warm, samples }) => ({
            daemon,
            samples: samples.length,
            'live MiB': median(samples.map(({ liveBytes }) => liveBytes)) / 2 ** 20,
            'live KiB grown': warm.liveKiB,
            'native MiB': median(samples.map(({ nativeBytes }) => nativeBytes)) / 2 ** 20,
            'native MiB grown': warm.nativeMiB,
            'resident MiB grown': warm.residentMiB,
            'the same with warm-up': all.residentMiB,
            'descriptors and threads gained': warm.handles,
          })),
        },
      ],
      goals: rows.flatMap(({ daemon, warm }) => [
        atMost(`${daemon}: live KiB per ${bounds.unit}`, warm.liveKiB, bounds.liveKiBMax),
        atMost(`${daemon}: native MiB per ${bounds.unit}`, warm.nativeMiB, bounds.nativeMiBMax),
        atMost(`${daemon}: descriptors and threads gained`, warm.handles, 0),
      ]),
    };
  }
}

function handlesOf(sample: Sample | undefined): number {
  if (sample === undefined) return Number.NaN;
  return sample.sockets + sample.otherDescriptors + sample.threads + sample.sharedMappings;
}

function growthOf(samples: readonly Sample[], unitWork: number) {
  const slope = (value: (sample: Sample) => number) =>
    unitWork * medianSlope(samples.map((sample) => [sample.work, value(sample)]));
  return {
    liveKiB: slope(({ liveBytes }) => liveBytes) / 2 ** 10,
    nativeMiB: slope(({ nativeBytes }) => nativeBytes) / 2 ** 20,
    residentMiB: slope(({ residentBytes }) => residentBytes) / 2 ** 20,
    handles: handlesOf(samples.at(-1)) - handlesOf(samples[0]),
  };
}
