/** What plans count with beside weights and KV, against what the engine really allocates. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { engineSizesOf } from '../../controller/deployment/engine-sizes.ts';
import { reservedBytesOf } from '../../controller/deployment/reserved-bytes.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
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

it.each(cases)(
  '$directory, $numerics, $sequences sequences, chunks of $prefillChunk',
  async (one) => {
    const { directory, numerics } = one;
    const model = modelSpecFromConfig(
      JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')),
    );
    const sizes = engineSizesOf(one);
    const engine = await loadEngine({
      directory,
      model,
      shard: {
        rank: 0,
        ranks: 1,
        headGroups: whole(model.headGroups),
        ffnColumns: whole(model.ffnColumns),
        vocabRows: whole(model.vocabRows),
      },
      options: {
        device: 'cpu',
        multiprocessors: 0,
        threads: 1,
        speed: 1,
        memoryBytes: 0,
        numerics,
        kvBlockTokens: 16,
        kvBlocks: Math.ceil(model.maxPositions / 16),
        ...sizes,
        corruption: null,
      },
    });
    const { scratchBytes } = await engine.report();
    await engine.close();
    const reserved = reservedBytesOf({ model, ...sizes, numerics, lends: false, ranks: 1 }, 'cpu');
    expect(scratchBytes).toBeLessThanOrEqual(reserved);
    // Not much more: a plan would leave room unused that grows with the sizes.
    expect(reserved - scratchBytes).toBeLessThan(9 * MiB + 0.25 * scratchBytes);
  },
);

it.each(cases.filter(({ numerics }) => numerics === 'exact'))(
  '$directory, $sequences sequences, chunks of $prefillChunk, beside KV on loan',
  async (one) => {
    const { directory, numerics } = one;
    const model = modelSpecFromConfig(
      JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')),
    );
    const sizes = engineSizesOf(one);
    const scratchOf = async (blocks: number) => {
      // All heads but one are this rank's, which lends all but the first block.
      const own = model.headGroups - 1;
      const loan = {
        owner: 0,
        holder: 1,
        blocks: { begin: 1, end: blocks },
        headGroups: whole(own),
      };
      const engine = await loadEngine({
        directory,
        model,
        shard: {
          rank: 0,
          ranks: 2,
          headGroups: whole(own),
          ffnColumns: whole(model.ffnColumns),
          vocabRows: whole(model.vocabRows),
        },
        options: {
          device: 'cpu',
          multiprocessors: 0,
          threads: 1,
          speed: 1,
          memoryBytes: 0,
          numerics,
          kvBlockTokens: 64,
          kvBlocks: blocks,
          kvDeviceBlocks: 1,
          kvLoans: [loan],
          ...sizes,
          corruption: null,
        },
      });
      const { scratchBytes } = await engine.report();
      await engine.close();
      return scratchBytes;
    };
    const few = await scratchOf(100);
    expect(few).toBeLessThanOrEqual(
      reservedBytesOf({ model, ...sizes, numerics, lends: true, ranks: 2 }, 'cpu'),
    );
    // Buffers do not grow with what is lent.
    expect(await scratchOf(1000)).toBe(few);
  },
);
