/** A sequence's logits do not depend on what shares its steps: sixteen different sequences in one step against each alone. */
import { describe, expect, test } from 'vitest';
import type { SequenceStep } from '../../worker/binding/engine-types.ts';
import { createLocalGroup, type Engine, loadEngine } from '../../worker/binding/native.ts';
import { shortGolden } from '../support/golden-models.ts';
import {
  hashOfRows,
  logitsOf,
  type SplitModel,
  someTokens,
  splitDirectory,
} from '../support/local-logits.ts';

const sequences = 16;
const kvBlockTokens = 16;
const blocksPerSequence = 4;
const collectiveDeadlineMs = 60_000;

/** Prompts of 5, 7, ... 35 tokens; then each sequence takes `decodeSteps` given tokens one by one. */
const promptTokens = Array.from({ length: sequences }, (_, index) => 5 + 2 * index);
const decodeSteps = 3;

async function startEngines({ directory, model, shards }: SplitModel): Promise<Engine[]> {
  const group = createLocalGroup(shards.length);
  const engines = await Promise.all(
    shards.map((shard) =>
      loadEngine({
        directory,
        model,
        shard,
        options: {
          device: 'cpu',
          multiprocessors: 0,
          threads: 1,
          speed: 1,
          memoryBytes: 0,
          numerics: 'exact',
          kvBlockTokens,
          kvBlocks: sequences * blocksPerSequence,
          stepTokensMax: promptTokens.reduce((sum, count) => sum + count, 0),
          sequencesMax: sequences,
          corruption: null,
        },
      }),
    ),
  );
  await Promise.all(engines.map((engine) => engine.connectLocal(group)));
  return engines;
}

/** Every sequence's blocks lie interleaved with the others'. */
function sequenceStep(
  slot: number,
  tokens: readonly number[],
  startPosition: number,
): SequenceStep {
  const blocks = Math.ceil((startPosition + tokens.length) / kvBlockTokens);
  return {
    slot,
    takeSampled: false,
    tokens: Int32Array.from(tokens),
    startPosition,
    blockTable: Int32Array.from({ length: blocks }, (_, block) => block * sequences + slot),
    sampling: null,
    bannedTokens: new Int32Array(),
    returnLogits: true,
  };
}

/** One row of the whole vocabulary for each token of the step. */
async function step(
  split: SplitModel,
  engines: Engine[],
  batch: SequenceStep[],
): Promise<Float32Array[]> {
  const results = await Promise.all(
    engines.map((engine) => engine.step({ sequences: batch, collectiveDeadlineMs })),
  );
  const rows = batch.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return Array.from({ length: rows }, (_, row) => {
    const full = new Float32Array(split.model.vocabRows);
    for (const [rank, { logits }] of results.entries()) {
      const { begin, end } = split.shards[rank]!.vocabRows;
      full.set(logits.subarray(row * (end - begin), (row + 1) * (end - begin)), begin);
    }
    return full;
  });
}

/** One prefill step of all sequences, then decode steps in which the sequences stand in another order. */
async function runTogether(
  split: SplitModel,
  texts: readonly number[][],
): Promise<Float32Array[][]> {
  const engines = await startEngines(split);
  try {
    const rowsOf: Float32Array[][] = texts.map(() => []);
    const runStep = async (batch: SequenceStep[]) => {
      const rows = await step(split, engines, batch);
      for (const { slot, tokens } of batch) rowsOf[slot]!.push(...rows.splice(0, tokens.length));
    };
    await runStep(
      texts.map((text, slot) => sequenceStep(slot, text.slice(0, promptTokens[slot]), 0)),
    );
    for (let round = 0; round < decodeSteps; round += 1) {
      const batch = texts.map((text, slot) => {
        const position = promptTokens[slot]! + round;
        return sequenceStep(slot, text.slice(position, position + 1), position);
      });
      await runStep(round % 2 === 0 ? batch.reverse() : batch);
    }
    return rowsOf;
  } finally {
    await Promise.all(engines.map((engine) => engine.close()));
  }
}

describe.each([
  { name: 'llama-gqa', ranks: '2/1,0/2' },
  { name: 'llama-gqa-bf16', ranks: '1/3,1/1' },
  { name: 'llama-mha-tied', ranks: '3/1,5/1' },
  { name: 'opt-pre', ranks: '6/0,2/1' },
])('$name', ({ name, ranks }) => {
  test('sixteen sequences in one step, on one rank and on two, equal each alone', async () => {
    const whole = await splitDirectory(shortGolden(name).directory, null);
    const split = await splitDirectory(shortGolden(name).directory, ranks);
    const texts = promptTokens.map((count, index) =>
      someTokens(count + decodeSteps, whole.model.vocabRows, index + 1),
    );
    const alone: string[] = [];
    for (const text of texts) alone.push(hashOfRows(await logitsOf(whole, text)));
    expect(new Set(alone).size).toBe(sequences);
    for (const placed of [whole, split]) {
      expect((await runTogether(placed, texts)).map(hashOfRows)).toEqual(alone);
    }
  });
});
