/** Workers without a controller: a group changes its plan between two steps of a sequence, which goes on with the same bits. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { LocalProcess } from '../../client/helsctl/local-process.ts';
import { programPath } from '../../client/helsctl/program-path.ts';
import { modelDigest } from '../../proto/base/model-files.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ConnectResponse__Output } from '../../proto/gen/hels/v1/ConnectResponse.ts';
import type { KvMigration } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { SequenceStep } from '../../proto/gen/hels/v1/SequenceStep.ts';
import type { ShardPlan } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { WorkerClient } from '../../proto/gen/hels/v1/Worker.ts';
import { channelOptions, WorkerService } from '../../proto/rpc/definitions.ts';
import { bundledModel } from '../support/daemons.ts';

const model = modelSpecFromConfig(
  JSON.parse(readFileSync(join(bundledModel, 'config.json'), 'utf8')),
);
const prompt = Array.from({ length: 40 }, (_, index) => (index * 37 + 5) % model.vocabRows);
/** Addresses of 16 positions each, in no order. */
const blockTable = [4, 0, 6, 1];
const [before, after] = [10, 14];
const greedy = { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 };
const workerIds = ['a', 'b'];

let directory = '';
let digest = '';
let processes: LocalProcess[] = [];
let stubs: WorkerClient[] = [];
let epoch = 0;

const fenceOf = (number: number) => ({ term: 1, epoch: number });

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'hels-test-'));
  digest = await modelDigest(bundledModel);
  // Nothing listens there: the workers go on trying to register.
  const parameters = ['--controller', '127.0.0.1:9', '--device', 'cpu?threads=1&memory=64MiB'];
  processes = workerIds.map(
    (id) =>
      new LocalProcess(
        id,
        programPath('worker/main'),
        ['--id', id, ...parameters],
        join(directory, `${id}.log`),
      ),
  );
  const listening = await Promise.all(processes.map((worker) => worker.listening(20_000)));
  stubs = listening.map(
    ({ address }) => new WorkerService(address ?? '', credentials.createInsecure(), channelOptions),
  );
});

afterAll(async () => {
  for (const stub of stubs) stub.close();
  await Promise.all(processes.map((worker) => worker.stop(15_000)));
  rmSync(directory, { recursive: true, force: true });
});

/** A plan in which the first worker has `headGroups` of the eight head groups and `ffnGranules` of the FFN. */
function planOf(headGroups: number, ffnGranules: number): ShardPlan {
  const shared = { kvDeviceBlocks: 0, kvHostBytes: 0, weightBytes: 0, kvBytes: 0 };
  const columns = ffnGranules * model.ffnGranule;
  return {
    modelId: 'tiny',
    modelPath: bundledModel,
    modelDigest: digest,
    model,
    ranks: [
      {
        ...shared,
        rank: 0,
        workerId: 'a',
        headGroups: { begin: 0, end: headGroups },
        ffnColumns: { begin: 0, end: columns },
        vocabRows: { begin: 0, end: 400 },
      },
      {
        ...shared,
        rank: 1,
        workerId: 'b',
        headGroups: { begin: headGroups, end: model.headGroups },
        ffnColumns: { begin: columns, end: model.ffnColumns },
        vocabRows: { begin: 400, end: model.vocabRows },
      },
    ],
    kvBlockTokens: 16,
    kvBlocks: 8,
    stepTokensMax: 64,
    sequencesMax: 2,
    numerics: 'exact',
  };
}

function prepare(plan: ShardPlan, previous: number | null): Promise<PrepareResult__Output[]> {
  epoch += 1;
  return Promise.all(
    stubs.map(async (stub, rank) => {
      const fence = fenceOf(epoch);
      const call = stub.prepare({
        fence,
        plan: { ...plan, epoch },
        rank,
        previous: previous === null ? null : fenceOf(previous),
      });
      let result: PrepareResult__Output | null = null;
      for await (const event of call) result = event.result ?? result;
      if (result === null) throw new Error('prepare ended without a result');
      return result;
    }),
  );
}

function connect(
  prepared: PrepareResult__Output[],
  migration: KvMigration | null = null,
): Promise<ConnectResponse__Output[]> {
  const request = {
    fence: fenceOf(epoch),
    collectiveAddresses: prepared.map(({ collectiveAddress }) => collectiveAddress),
    deadlineMs: 10_000,
    migration,
  };
  return Promise.all(
    stubs.map(
      (stub) =>
        new Promise<ConnectResponse__Output>((resolve, reject) => {
          stub.connect(request, (error, response) => {
            if (error || !response) reject(error ?? new Error('no response'));
            else resolve(response);
          });
        }),
    ),
  );
}

interface Generated {
  tokens: number[];
  /** Of each step, (rank, bytes). */
  logits: Buffer[][];
}

/** Generates `count` tokens with one stream for each rank; goes on after `so far`. */
async function generate(count: number, soFar: readonly number[] = []): Promise<Generated> {
  const streams = stubs.map((stub) => stub.steps());
  const answers = streams.map((stream) => stream[Symbol.asyncIterator]());
  const generated: Generated = { tokens: [], logits: [] };
  for (let step = 1; step <= count; step += 1) {
    const written = [...prompt, ...soFar, ...generated.tokens];
    const fresh = step === 1 && soFar.length === 0;
    const sequence: SequenceStep = {
      slot: 0,
      // The first step of an epoch knows of no token sampled before.
      takeSampled: step > 1,
      tokens: fresh ? prompt : step > 1 ? [] : written.slice(-1),
      startPosition: fresh ? 0 : written.length - 1,
      blockTable: blockTable.slice(0, Math.ceil(written.length / 16)),
      sampling: greedy,
      returnLogits: true,
    };
    const request = {
      fence: fenceOf(epoch),
      step,
      sequences: [sequence],
      collectiveDeadlineMs: 10_000,
    };
    for (const stream of streams) stream.write(request);
    const responses: StepResponse__Output[] = [];
    for (const answer of answers) responses.push((await answer.next()).value);
    for (const { error } of responses) expect(error).toBeNull();
    generated.tokens.push(responses[0]?.sampled[0]?.tokenId ?? -1);
    generated.logits.push(responses.map(({ logits }) => logits as Buffer));
  }
  for (const stream of streams) stream.end();
  return generated;
}

/** All tokens in one epoch that nothing disturbs. */
async function undisturbed(): Promise<Generated> {
  await connect(await prepare(planOf(4, 4), null));
  return generate(before + after);
}

it('goes on with the same bits when heads and FFN columns move', async () => {
  const expected = await undisturbed();
  const [whole] = await prepare(planOf(2, 6), null);
  await connect(await prepare(planOf(4, 4), null));
  const first = await generate(before);
  const prepared = await prepare(planOf(2, 6), epoch);
  for (const result of prepared) {
    expect(result.kvKept).toBe(true);
    expect(result.weightBytesAdopted).toBeGreaterThan(0);
  }
  expect((prepared[0]?.weightBytesLoaded ?? 0) + (prepared[0]?.weightBytesAdopted ?? 0)).toBe(
    whole?.weightBytesLoaded,
  );
  const previousHeadGroups = [
    { begin: 0, end: 4 },
    { begin: 4, end: 8 },
  ];
  const blocks = [
    { begin: 0, end: 2 },
    { begin: 4, end: 5 },
    { begin: 6, end: 7 },
  ];
  const connected = await connect(prepared, { previousHeadGroups, blocks });
  // Two head groups of four blocks: keys and values of bf16.
  const moved = 2 * 4 * model.layers * 2 * 16 * model.headDim * 2;
  expect(connected.map(({ migrationBytes }) => migrationBytes)).toEqual([0, moved]);
  const second = await generate(after, first.tokens);
  expect([...first.tokens, ...second.tokens]).toEqual(expected.tokens);
  const all = [...first.logits, ...second.logits];
  expect(all.map((ranks) => ranks.map((bytes) => bytes.toString('hex')))).toEqual(
    expected.logits.map((ranks) => ranks.map((bytes) => bytes.toString('hex'))),
  );
});

it('ends the steps of the epoch before, and refuses a migration that does not fit', async () => {
  await connect(await prepare(planOf(4, 4), null));
  const served = epoch;
  await generate(1);
  const prepared = await prepare(planOf(3, 4), served);
  const stream = stubs[0]?.steps();
  stream?.write({ fence: fenceOf(served), step: 2, sequences: [], collectiveDeadlineMs: 1000 });
  await expect(stream?.[Symbol.asyncIterator]().next()).rejects.toThrow(
    /stale-fence|is older than/,
  );
  const halves = [
    { begin: 0, end: 4 },
    { begin: 5, end: 8 },
  ];
  await expect(connect(prepared, { previousHeadGroups: halves, blocks: [] })).rejects.toThrow(
    'migration.previous_head_groups is [0, 4), [5, 8); together they must be [0, 8)',
  );
  // The epoch stays; without a migration the group forms all the same.
  await connect(prepared);
  expect((await generate(3)).tokens).toHaveLength(3);
});

it('loads everything when the epoch that is named is not the one that is held', async () => {
  await connect(await prepare(planOf(4, 4), null));
  await generate(1);
  const [result] = await prepare(planOf(4, 4), epoch - 1);
  expect(result).toMatchObject({ kvKept: false, weightBytesAdopted: 0 });
  expect(result?.weightBytesLoaded).toBeGreaterThan(0);
});
