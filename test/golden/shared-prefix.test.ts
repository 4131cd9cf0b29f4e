/**
 * The prefix cache changes no bit: the scheduler over real engines, requests with common beginnings in the same steps. Every logits row
 * that is computed, from KV that another request left too, equals the row of that position when the text runs alone.
 */
import { describe, expect, test } from 'vitest';
import { sha256PrefixHash } from '../../controller/engine/prefix-hash.ts';
import { Scheduler, type StepPlan } from '../../controller/scheduler/scheduler.ts';
import { createLocalGroup, type Engine, loadEngine } from '../../worker/binding/native.ts';
import { requestOf } from '../support/generation-requests.ts';
import { shortGolden } from '../support/golden-models.ts';
import { logitsOf, type SplitModel, someTokens, splitDirectory } from '../support/local-logits.ts';

const limits = {
  kvBlocks: 24,
  kvBlockTokens: 16,
  stepTokensMax: 56,
  sequencesMax: 6,
  contextTokensMax: 128,
  waitingMax: 32,
};
const collectiveDeadlineMs = 60_000;

async function startEngines({ directory, model, shards }: SplitModel): Promise<Engine[]> {
  const group = createLocalGroup(shards.length);
  const { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax } = limits;
  const sizes = { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax };
  const fixed = {
    device: 'cpu',
    multiprocessors: 0,
    threads: 1,
    speed: 1,
    memoryBytes: 0,
    corruption: null,
  } as const;
  const options = { ...fixed, ...sizes, numerics: 'exact' as const };
  const engines = await Promise.all(
    shards.map((shard) => loadEngine({ directory, model, shard, options })),
  );
  await Promise.all(engines.map((engine) => engine.connectLocal(group)));
  return engines;
}

interface Served {
  tokens: number[];
  /** Of each request: its computed rows by position. */
  rows: Map<number, Float32Array>;
}

class Server {
  readonly scheduler: Scheduler;
  readonly served = new Map<string, Served>();
  readonly #split: SplitModel;
  readonly #engines: Engine[];

  constructor(split: SplitModel, engines: Engine[], cached: boolean) {
    this.#split = split;
    this.#engines = engines;
    this.scheduler = new Scheduler(limits, cached ? sha256PrefixHash : null);
  }

  add(id: string, prompt: readonly number[], maxTokens: number): void {
    this.scheduler.add(requestOf(id, prompt, maxTokens));
    this.served.set(id, { tokens: [...prompt], rows: new Map() });
  }

  /** Steps until nothing is left; at most `most`. */
  async run(most = Number.POSITIVE_INFINITY): Promise<void> {
    for (let steps = 0; steps < most; steps += 1) {
      const plan = this.scheduler.schedule();
      if (plan === null) return;
      const sampled = await this.#step(plan);
      for (const event of this.scheduler.apply(plan.step, sampled)) {
        if (event.type !== 'token') continue;
        this.served.get(event.requestId)?.tokens.push(event.sampled.tokenId);
      }
      this.scheduler.checkIntegrity();
    }
  }

  async #step({ sequences }: StepPlan) {
    const batch = sequences.map(({ tokens, blockTable, bannedTokens, ...sequence }) => ({
      ...sequence,
      tokens: Int32Array.from(tokens),
      bannedTokens: Int32Array.from(bannedTokens),
      blockTable: Int32Array.from(blockTable),
      returnLogits: true,
    }));
    const results = await Promise.all(
      this.#engines.map((engine) => engine.step({ sequences: batch, collectiveDeadlineMs })),
    );
    let row = 0;
    for (const { requestId, startPosition, tokens } of sequences) {
      for (let index = 0; index < tokens.length; index += 1, row += 1) {
        const full = new Float32Array(this.#split.model.vocabRows);
        for (const [rank, { logits }] of results.entries()) {
          const { begin, end } = this.#split.shards[rank]!.vocabRows;
          full.set(logits.subarray(row * (end - begin), (row + 1) * (end - begin)), begin);
        }
        this.served.get(requestId)?.rows.set(startPosition + index, full);
      }
    }
    return results[0]?.sampled ?? [];
  }
}

/** Requests come in three waves, so that later ones find what earlier ones left, finished or still under way. */
async function serve(split: SplitModel, cached: boolean): Promise<Server> {
  const engines = await startEngines(split);
  try {
    const server = new Server(split, engines, cached);
    const text = (count: number, seed: number) => someTokens(count, split.model.vocabRows, seed);
    const system = text(70, 1);
    server.add('first', [...system, ...text(5, 2)], 20);
    server.add('other', text(40, 3), 6);
    await server.run(3);
    server.add('same', [...system, ...text(5, 2)], 12);
    server.add('shorter', system.slice(0, 48), 9);
    server.add('longer', [...system, ...text(30, 4)], 4);
    await server.run(5);
    server.add('again', system, 5);
    await server.run();
    const chat = server.served.get('first')?.tokens ?? [];
    server.add('next turn', [...chat, ...text(9, 5)], 8);
    await server.run();
    return server;
  } finally {
    await Promise.all(engines.map((engine) => engine.close()));
  }
}

describe.each([
  { name: 'llama-gqa', ranks: '2/1,0/2' },
  { name: 'llama-gqa-bf16', ranks: '1/3,1/1' },
  { name: 'mistral-swa', ranks: null },
  { name: 'opt-pre', ranks: '6/0,2/1' },
])('$name', ({ name, ranks }) => {
  test('shared blocks give the bits that each request has alone', async () => {
    const { directory } = shortGolden(name);
    const whole = await splitDirectory(directory, null);
    const split = await splitDirectory(directory, ranks);
    const off = await serve(split, false);
    const on = await serve(split, true);
    expect(on.scheduler.counts.prefixHitTokens).toBeGreaterThan(250);
    expect(off.scheduler.counts.prefixHitTokens).toBe(0);
    for (const [id, { tokens, rows }] of on.served) {
      expect([id, tokens]).toEqual([id, off.served.get(id)?.tokens]);
      const alone = await logitsOf(whole, tokens.slice(0, -1));
      for (const [position, row] of rows) {
        if (!Buffer.from(row.buffer).equals(Buffer.from(alone[position]!.buffer))) {
          throw new Error(`${id}: the logits of position ${position} differ`);
        }
      }
      expect(rows.size).toBeGreaterThan(0);
    }
  });
});
