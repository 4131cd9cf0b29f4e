/** What a worker refuses: files that are not the plan's, fences that are not the newest, memory that it does not have. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PrepareRequest } from '../../proto/gen/hels/v1/PrepareRequest.ts';
import type { ShardPlan } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { WorkerClient } from '../../proto/gen/hels/v1/Worker.ts';
import { WorkerService } from '../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';
import { bundledModel, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { helsctl } from '../support/helsctl-process.ts';

const digests = /[0-9a-f]{64}/g;

let test: TestCluster;
let model: string;
let worker: WorkerClient;

/** Flips one bit of the last weight. */
function flipBit(): void {
  const file = join(model, 'model.safetensors');
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  writeFileSync(file, bytes);
}

const ask = () => collect(test.cluster.client.generate({ prompt: 'Hels' }, { maxTokens: 4 }));

async function failureOf(work: Promise<unknown>) {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(Error);
  return error as Error & { code: string };
}

/** Calls the worker as a controller would. */
async function prepare(request: PrepareRequest): Promise<void> {
  try {
    for await (const _ of worker.prepare(request, { deadline: Date.now() + 20_000 }));
  } catch (error) {
    throw fromServiceError(error, 'the worker');
  }
}

beforeAll(async () => {
  model = join(mkdtempSync(join(tmpdir(), 'hels-model-')), 'hels-tiny');
  cpSync(bundledModel, model, { recursive: true });
  test = await startTestCluster(['cpu?threads=1&memory=128MiB']);
  const [registered] = (await test.cluster.client.status()).workers;
  worker = new WorkerService(registered?.address ?? '', credentials.createInsecure());
});

afterAll(async () => {
  worker?.close();
  await test?.stop();
  rmSync(join(model, '..'), { recursive: true, force: true });
});

describe('a worker whose files are not those of the plan', () => {
  it('refuses a plan when they changed since the controller read them, naming both digests', async () => {
    const deploy = async () => {
      let changed = false;
      for await (const event of test.cluster.client.deploy({ modelPath: model })) {
        if (event.type === 'ready' || changed || event.phase !== 'profiling') continue;
        changed = true;
        flipBit();
      }
    };
    const error = await failureOf(deploy());
    expect(error.code).toBe('digest-mismatch');
    expect(error.message).toContain(model);
    expect(new Set(error.message.match(digests)).size).toBe(2);
    // The files are as they were: the plan fits again.
    flipBit();
    const report = await test.deploy({ modelPath: model });
    expect(error.message).toContain(report.plan?.modelDigest);
    expect((await ask()).finished?.type).toBe('finished');
  }, 60_000);
});

describe('a worker that serves', () => {
  it('refuses older fences, naming both, and goes on', async () => {
    const { term } = await test.cluster.client.status();
    const { plan } = await test.cluster.client.plan();
    const epoch = plan?.epoch ?? 0;
    for (const fence of [
      { term, epoch: epoch - 1 },
      { term: term - 1, epoch: epoch + 100 },
    ]) {
      const former = { ...plan, epoch: fence.epoch } as ShardPlan;
      const error = await failureOf(prepare({ fence, plan: former, rank: 0 }));
      expect(error.code).toBe('stale-fence');
      expect(error.message).toContain(`(term ${fence.term}, epoch ${fence.epoch})`);
      expect(error.message).toContain(`(term ${term}, epoch ${epoch})`);
    }
    expect((await ask()).finished?.type).toBe('finished');
  });

  it('does not change what it serves for a model that needs more memory than there is', async () => {
    const { exitCode, stderr } = await helsctl(
      ...['--address', test.cluster.grpcAddress, 'deploy', '--model', model],
      ...['--sequences', '1024', '--context', '1024'],
    );
    expect(stderr).toMatch(/error: .*kv: .*[0-9.]+ [GM]iB lack/);
    expect(exitCode).toBe(3);
    // The deployment of before comes back by itself.
    await expect
      .poll(() => ask().then(({ finished }) => finished?.type, String), { timeout: 20_000 })
      .toBe('finished');
  }, 40_000);

  it('refuses a plan of another digest, and gives up what it held for a newer epoch', async () => {
    const { term, epoch } = await test.cluster.client.status();
    const { plan } = await test.cluster.client.plan();
    const modelDigest = 'f'.repeat(64);
    const fence = { term, epoch: epoch + 1 };
    const changed = { ...plan, epoch: fence.epoch, modelDigest } as ShardPlan;
    const request: PrepareRequest = { fence, plan: changed, rank: 0 };
    const error = await failureOf(prepare(request));
    expect(error.code).toBe('digest-mismatch');
    expect(error.message).toContain(modelDigest);
    expect(error.message).toContain(plan?.modelDigest);
  });
});
