/** The addon's change of plans: an engine that is loaded in place of another, with what that one had. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { KvMigration, StepBatch } from '../../worker/binding/engine-types.ts';
import { type Engine, type LoadRequest, loadEngine } from '../../worker/binding/native.ts';
import { bundledModel } from '../support/daemons.ts';

const model = modelSpecFromConfig(
  JSON.parse(readFileSync(join(bundledModel, 'config.json'), 'utf8')),
);
const all = { begin: 0, end: model.headGroups };

const requestOf = (kvBlocks: number, directory = bundledModel): LoadRequest => ({
  directory,
  model,
  shard: {
    rank: 0,
    ranks: 1,
    headGroups: all,
    ffnColumns: { begin: 0, end: model.ffnColumns },
    vocabRows: { begin: 0, end: model.vocabRows },
  },
  options: {
    device: 'cpu',
    multiprocessors: 0,
    threads: 1,
    speed: 1,
    memoryBytes: 0,
    numerics: 'exact',
    kvBlockTokens: 16,
    kvBlocks,
    stepTokensMax: 64,
    sequencesMax: 1,
    corruption: null,
  },
});

const tokens = Int32Array.from({ length: 30 }, (_, index) => index + 7);

/** Tokens from `begin` on, with the logits of all. */
const batchOf = (begin: number, end: number): StepBatch => ({
  collectiveDeadlineMs: 1000,
  sequences: [
    {
      slot: 0,
      takeSampled: false,
      tokens: tokens.slice(begin, end),
      startPosition: begin,
      blockTable: Int32Array.from([2, 0]),
      sampling: null,
      bannedTokens: new Int32Array(),
      returnLogits: true,
    },
  ],
});

const migration: KvMigration = {
  previousHeadGroups: [all],
  headGroups: [all],
  previousLoans: [],
  blocks: [
    { begin: 0, end: 1 },
    { begin: 2, end: 3 },
  ],
  parked: [],
  deadlineMs: 1000,
};

let engine: Engine;
afterEach(() => engine.close());

it('takes over weights and KV, and goes on with the same bits', async () => {
  engine = await loadEngine(requestOf(8));
  const whole = await engine.report();
  expect(whole).toMatchObject({ weightBytesAdopted: 0, kvKept: false });
  expect(whole.residentBytes).toBeGreaterThan(whole.weightBytesResident);
  const expected = (await engine.step(batchOf(0, 30))).logits;
  await engine.reload(requestOf(5));
  expect(await engine.report()).toMatchObject({
    weightBytesLoaded: 0,
    weightBytesAdopted: whole.weightBytesLoaded,
    kvKept: true,
  });
  const { seconds, bytesReceived } = await engine.migrateKv(migration);
  expect(seconds).toBeGreaterThan(0);
  expect(bytesReceived).toBe(0);
  const rest = (await engine.step(batchOf(20, 30))).logits;
  expect(rest).toEqual(expected.subarray(20 * model.vocabRows));
});

it('frees KV that is not migrated, and names what is wrong with a migration', async () => {
  engine = await loadEngine(requestOf(8));
  await engine.step(batchOf(0, 30));
  await engine.reload(requestOf(5));
  await expect(
    engine.migrateKv({ ...migration, blocks: [{ begin: 4, end: 6 }] }),
  ).rejects.toMatchObject({
    code: 'request-invalid',
    message: 'blocks[0] is [4, 6); it must be a range, not empty, within [0, 5)',
  });
  const noRange = { ...migration, blocks: [{ begin: 'x', end: 2 }] } as unknown as KvMigration;
  await expect(engine.migrateKv(noRange)).rejects.toThrow(
    /migration\.blocks\[0\]\.begin is 'x'; it must be a whole number/,
  );
  expect(await engine.migrateKv(null)).toEqual({ seconds: 0, bytesReceived: 0 });
  expect((await engine.report()).kvKept).toBe(false);
  await expect(engine.migrateKv(migration)).rejects.toThrow('this rank kept KV of none');
});

it('is gone when the load fails, and can be loaded again', async () => {
  engine = await loadEngine(requestOf(8));
  await expect(engine.reload(requestOf(8, '/nowhere'))).rejects.toMatchObject({
    code: 'model-invalid',
  });
  await expect(engine.report()).rejects.toThrow('the engine did not load');
  await engine.reload(requestOf(8));
  expect(await engine.report()).toMatchObject({ weightBytesAdopted: 0, kvKept: false });
});
