/** What plans count with beside weights and KV, against what the engine really allocates. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { engineSizesOf } from '../../controller/deployment/engine-sizes.ts';
import { reservedBytesOf } from '../../controller/deployment/reserved-bytes.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { EngineOptions } from '../../worker/binding/engine-types.ts';
import { loadEngine } from '../../worker/binding/native.ts';
import { bundledModel, fixtureModel } from '../support/daemons.ts';

const models = [bundledModel, fixtureModel('opt-pre'), fixtureModel('llama-gqa-bf16')];
const cases = models.flatMap((directory) =>
  (['exact', 'fast'] as const).flatMap((numerics) =>
    [
      { sequences: 8, prefillChunk: 256 },
      { sequences: 1024, prefillChunk: 8192 },
    ].map((load) => ({ directory, numerics, ...load })),
  ),
);
const MiB = 2 ** 20;
const whole = (end: number) => ({ begin: 0, end });
const modelOf = (directory: string) =>
  modelSpecFromConfig(JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')));

/** Of a rank with so many of the model's head groups and everything else. */
async function scratchBytesOf(
  { directory, numerics, ...load }: (typeof cases)[number],
  ownHeadGroups: (model: ModelSpec) => number,
  ranks: number,
  options: Pick<EngineOptions, 'kvBlockTokens' | 'kvBlocks' | 'kvDeviceBlocks' | 'kvLoans'>,
): Promise<number> {
  const model = modelOf(directory);
  const engine = await loadEngine({
    directory,
    model,
    shard: {
      ...{ rank: 0, ranks, headGroups: whole(ownHeadGroups(model)) },
      ffnColumns: whole(model.ffnColumns),
      vocabRows: whole(model.vocabRows),
    },
    options: {
      ...{ device: 'cpu', multiprocessors: 0, threads: 1, speed: 1, memoryBytes: 0, numerics },
      ...engineSizesOf(load),
      corruption: null,
      ...options,
    },
  });
  const { scratchBytes } = await engine.report();
  await engine.close();
  return scratchBytes;
}

it.each(cases)(
  '$directory, $numerics, $sequences sequences, chunks of $prefillChunk',
  async (one) => {
    const model = modelOf(one.directory);
    const kvBlocks = Math.ceil(model.maxPositions / 16);
    const all = ({ headGroups }: ModelSpec) => headGroups;
    const scratchBytes = await scratchBytesOf(one, all, 1, { kvBlockTokens: 16, kvBlocks });
    const { numerics } = one;
    const reserved = reservedBytesOf(
      { model, ...engineSizesOf(one), numerics, lends: false, ranks: 1 },
      'cpu',
    );
    expect(scratchBytes).toBeLessThanOrEqual(reserved);
    // Not much more: a plan would leave room unused that grows with the sizes.
    expect(reserved - scratchBytes).toBeLessThan(9 * MiB + 0.25 * scratchBytes);
  },
);

it.each(cases.filter(({ numerics }) => numerics === 'exact'))(
  '$directory, $sequences sequences, chunks of $prefillChunk, beside KV on loan',
  async (one) => {
    const model = modelOf(one.directory);
    // All heads but one are this rank's, which lends all but the first block.
    const allButOne = ({ headGroups }: ModelSpec) => headGroups - 1;
    const scratchOf = (kvBlocks: number) => {
      const blocks = { begin: 1, end: kvBlocks };
      const loan = { owner: 0, holder: 1, blocks, headGroups: whole(allButOne(model)) };
      const lending = { kvBlockTokens: 64, kvBlocks, kvDeviceBlocks: 1, kvLoans: [loan] };
      return scratchBytesOf(one, allButOne, 2, lending);
    };
    const few = await scratchOf(100);
    const { numerics } = one;
    expect(few).toBeLessThanOrEqual(
      reservedBytesOf({ model, ...engineSizesOf(one), numerics, lends: true, ranks: 2 }, 'cpu'),
    );
    // Buffers do not grow with what is lent.
    expect(await scratchOf(1000)).toBe(few);
  },
);
