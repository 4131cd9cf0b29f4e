/** A deployment that fails does not disturb what is served: the streams that run get the tokens that they would have got. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { DeployOptions } from '../../client/sdk/index.ts';
import { cut, editHeader } from '../support/broken-models.ts';
import { bundledModel, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { ScratchModels } from '../support/golden-models.ts';

const devices = ['cpu?threads=1&memory=64MiB', 'cpu?threads=1&memory=64MiB'];
const options = { maxTokens: 900, ignoreEndOfText: true, temperature: 1, seed: 3 };
const scratch = new ScratchModels();
let test: TestCluster;
let undisturbed: number[];

beforeAll(async () => {
  test = await startTestCluster(devices);
  await test.deploy();
  undisturbed = (await collect(test.cluster.client.generate({ prompt: 'Hels' }, options))).tokenIds;
}, 60_000);

afterAll(async () => {
  await test?.stop();
  scratch.remove();
});

function brokenModel(spoil: (directory: string) => void): string {
  const directory = scratch.copyOf({ name: 'broken', directory: bundledModel, golden: '' });
  spoil(directory);
  return directory;
}

/** Deploys while a stream runs. Resolves to how that failed and how many epochs it took; throws unless the stream is undisturbed. */
async function failing(
  deployment: Partial<DeployOptions>,
): Promise<[code: string, epochs: number]> {
  const { client } = test.cluster;
  const { epoch } = await client.status();
  const events = client.generate({ prompt: 'Hels' }, options)[Symbol.asyncIterator]();
  const tokenIds: number[] = [];
  let code = '';
  for (let next = await events.next(); !next.done; next = await events.next()) {
    if (next.value.type !== 'delta') continue;
    tokenIds.push(...next.value.tokenIds);
    if (code !== '') continue;
    code = 'none';
    code = await test.deploy({ modelId: 'other', ...deployment }).then(
      () => 'none',
      (error: { code: string }) => error.code,
    );
  }
  expect(tokenIds).toEqual(undisturbed);
  return [code, (await client.status()).epoch - epoch];
}

const norm = 'model.norm.weight';

const withoutNorm: Parameters<typeof editHeader>[0] = ({ [norm]: _, ...header }) => header;

/** The last norm lies where another tensor does. */
const withOverlap: Parameters<typeof editHeader>[0] = (header) => {
  const entry = header[norm]!;
  const [begin, end] = entry.data_offsets;
  const shift = begin === 0 ? 4 : -4;
  return { ...header, [norm]: { ...entry, data_offsets: [begin + shift, end + shift] } };
};

const split = (...headGroups: number[]) =>
  headGroups.map((count, index) => ({
    workerId: `worker-${index}`,
    headGroups: count,
    ffnWeight: 1,
  }));

it('is refused before what is served makes room for it, where that can be known', async () => {
  const cases: [Partial<DeployOptions>, string][] = [
    [{ modelPath: brokenModel(cut(1_000_000)) }, 'model-invalid'],
    [{ modelPath: brokenModel(editHeader(withoutNorm)) }, 'model-invalid'],
    [{ ranks: split(7, 0) }, 'config-invalid'],
    [{ ranks: split(4, 2, 2), workersMin: 2 }, 'config-invalid'],
    [{ workersMin: 9, workersTimeoutMs: 500 }, 'deadline-exceeded'],
    [{ workload: { sequences: 1024, contextTokens: 1024 } }, 'plan-infeasible'],
  ];
  for (const [deployment, code] of cases) expect(await failing(deployment)).toEqual([code, 0]);
}, 120_000);

it('is followed by the same streams when a worker finds out what is wrong', async () => {
  const modelPath = brokenModel(editHeader(withOverlap));
  // Its own epoch, which takes a while since such steps were never measured, and the one in which the model before serves again.
  const workload = { sequences: 128, contextTokens: 64 };
  expect(await failing({ modelPath, workload })).toEqual(['model-invalid', 2]);
}, 60_000);
