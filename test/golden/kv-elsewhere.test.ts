/** KV that is lent, parked in host memory and brought back elsewhere gives the bits of KV at home, through the addon. */
import { expect, test } from 'vitest';
import type { EngineOptions, StepBatch } from '../../worker/binding/engine-types.ts';
import { createLocalGroup, type Engine, loadEngine } from '../../worker/binding/native.ts';
import { shortGolden } from '../support/golden-models.ts';
import {
  hashOfRows,
  logitsOf,
  type SplitModel,
  someTokens,
  splitDirectory,
} from '../support/local-logits.ts';

/** Four runnable addresses and two parked ones, in host memory; rank 1 has one itself and lends the others to rank 0. */
async function startEngines({ directory, model, shards }: SplitModel): Promise<Engine[]> {
  const group = createLocalGroup(shards.length);
  const lender = shards[1]!;
  const options = (rank: number): EngineOptions => ({
    device: 'cpu',
    multiprocessors: 0,
    threads: 1,
    speed: 1,
    memoryBytes: 0,
    numerics: 'exact',
    kvBlockTokens: 64,
    kvBlocks: 4,
    kvParkedBlocks: 2,
    kvDeviceBlocks: rank === 1 ? 1 : null,
    kvLoans: [{ owner: 1, holder: 0, blocks: { begin: 1, end: 4 }, headGroups: lender.headGroups }],
    stepTokensMax: 128,
    sequencesMax: 1,
    corruption: null,
  });
  const engines = await Promise.all(
    shards.map((shard, rank) => loadEngine({ directory, model, shard, options: options(rank) })),
  );
  await Promise.all(engines.map((engine) => engine.connectLocal(group)));
  return engines;
}

const deadline = { collectiveDeadlineMs: 60_000 };
const stepAll = (engines: readonly Engine[], batch: StepBatch) =>
  Promise.all(engines.map((engine) => engine.step(batch)));

async function feed(
  { shards, model }: SplitModel,
  engines: readonly Engine[],
  tokens: readonly number[],
  startPosition: number,
  blockTable: readonly number[],
): Promise<{ rows: Float32Array[]; remoteSeconds: number }> {
  const sequence = {
    slot: 0,
    takeSampled: false,
    startPosition,
    sampling: null,
    bannedTokens: new Int32Array(),
    returnLogits: true,
  };
  const typed = { tokens: Int32Array.from(tokens), blockTable: Int32Array.from(blockTable) };
  const results = await stepAll(engines, { sequences: [{ ...sequence, ...typed }], ...deadline });
  const rows = tokens.map((_, row) => {
    const full = new Float32Array(model.vocabRows);
    for (const [rank, { logits }] of results.entries()) {
      const { begin, end } = shards[rank]!.vocabRows;
      full.set(logits.subarray(row * (end - begin), (row + 1) * (end - begin)), begin);
    }
    return full;
  });
  return { rows, remoteSeconds: results[0]!.remoteSeconds };
}

test.each([
  { name: 'llama-mha-tied', ranks: '3/1,5/1' },
  { name: 'llama-gqa-bf16', ranks: '1/3,1/1' },
  { name: 'mistral-swa', ranks: '1/1,1/1' },
])('$name: lent, parked, brought back', async ({ name, ranks }) => {
  const split = await splitDirectory(shortGolden(name).directory, ranks);
  const tokens = someTokens(120, split.model.vocabRows, 7);
  const engines = await startEngines(split);
  try {
    const first = await feed(split, engines, tokens.slice(0, 90), 0, [0, 2]);
    expect(first.remoteSeconds).toBeGreaterThan(0);
    const moves = async (kvMoves: { from: number; to: number }[]) => {
      const results = await stepAll(engines, { sequences: [], kvMoves, ...deadline });
      for (const { moveSeconds, sampled } of results) {
        expect(moveSeconds).toBeGreaterThan(0);
        expect(sampled).toEqual([]);
      }
    };
    await moves([
      { from: 0, to: 5 },
      { from: 2, to: 4 },
    ]);
    await moves([
      { from: 5, to: 3 },
      { from: 4, to: 0 },
    ]);
    const rest = await feed(split, engines, tokens.slice(90), 90, [3, 0]);
    const expected = hashOfRows(await logitsOf(split, tokens));
    expect(hashOfRows([...first.rows, ...rest.rows])).toBe(expected);
    const [holder, owner] = await Promise.all(engines.map((engine) => engine.report()));
    expect(holder!.kvLoanBytes).toBe(3 * owner!.kvBytes);
    expect(owner!.kvHostBytes).toBe(2 * owner!.kvBytes);
    expect(holder!.exchangeBytes).toBe(owner!.exchangeBytes);
    await expect(
      stepAll(engines, { sequences: [], kvMoves: [{ from: 0, to: 6 }], ...deadline }),
    ).rejects.toThrow('to is 6; allowed is [0, 6)');
  } finally {
    await Promise.all(engines.map((engine) => engine.close()));
  }
});
