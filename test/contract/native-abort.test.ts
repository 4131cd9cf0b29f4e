/** The addon's groups while they form, with a peer that never comes: what ends them does so at once, not with their deadline. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import { addonFile } from '../../worker/binding/addon-file.ts';
import { type Engine, loadEngine, openProbe } from '../../worker/binding/native.ts';
import { bundledModel } from '../support/daemons.ts';

const model = modelSpecFromConfig(
  JSON.parse(readFileSync(join(bundledModel, 'config.json'), 'utf8')),
);
const deadlineMs = 20_000;
const atOnceMs = 5_000;
const load = { tokens: [1], hiddenSize: 256, sums: 1, repetitions: 1, budgetMs: 1_000 };

const rankWithoutShare = {
  directory: bundledModel,
  model,
  shard: {
    rank: 0,
    ranks: 2,
    headGroups: { begin: 0, end: 0 },
    ffnColumns: { begin: 0, end: 0 },
    vocabRows: { begin: 0, end: 0 },
  },
  options: {
    device: 'cpu',
    multiprocessors: 0,
    threads: 1,
    speed: 1,
    memoryBytes: 0,
    numerics: 'exact' as const,
    kvBlockTokens: 16,
    kvBlocks: 1,
    stepTokensMax: 1,
    sequencesMax: 1,
    corruption: null,
  },
};

async function millisecondsOf(body: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await body();
  return performance.now() - start;
}

describe('an engine whose group forms', () => {
  let engine: Engine;
  afterEach(() => engine.close());

  it.each(['abort', 'close'] as const)('ends that by %s', async (end) => {
    engine = await loadEngine(rankWithoutShare);
    const absent = await openProbe(1, 2, '127.0.0.1');
    const own = await engine.openCollective('127.0.0.1');
    const connecting = engine.connect([own, absent.address], deadlineMs);
    const ended = expect(connecting).rejects.toMatchObject({ code: 'cancelled' });
    await delay(100);
    const milliseconds = await millisecondsOf(async () => {
      await engine[end]();
      await ended;
    });
    expect(milliseconds).toBeLessThan(atOnceMs);
  });
});

describe('a collective probe that connects', () => {
  it('is ended by abort, and measures once', async () => {
    const probe = await openProbe(0, 2, '127.0.0.1');
    const absent = await openProbe(1, 2, '127.0.0.1');
    const addresses = [probe.address, absent.address];
    const measuring = probe.measure(addresses, load, deadlineMs);
    const ended = expect(measuring).rejects.toMatchObject({ code: 'cancelled' });
    await delay(100);
    await expect(probe.measure(addresses, load, deadlineMs)).rejects.toThrow('measures once');
    const milliseconds = await millisecondsOf(async () => {
      probe.abort();
      await ended;
    });
    expect(milliseconds).toBeLessThan(atOnceMs);
  });

  it('ends with the environment that measures', async () => {
    const script = `
      const { parentPort } = require('node:worker_threads');
      const { CollectiveProbe } = require(${JSON.stringify(addonFile())});
      const open = (rank) => CollectiveProbe.open({ rank, ranks: 2, hostname: '127.0.0.1' });
      Promise.all([open(0), open(1)]).then(([probe, absent]) => {
        const addresses = [probe.address(), absent.address()];
        probe.measure(addresses, ${JSON.stringify(load)}, ${deadlineMs}).catch(() => undefined);
        parentPort.postMessage('measuring');
      });`;
    const environment = new Worker(script, { eval: true });
    await once(environment, 'message');
    await delay(100);
    expect(await millisecondsOf(() => environment.terminate())).toBeLessThan(atOnceMs);
  });
});
