/** A model that cannot be brought up, with nobody there: it is tried again by itself, and can be taken back. */
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { bundledModel } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { Daemons } from './controller-restart.contract.ts';

const deadlineMs = 60_000;
let daemons: Daemons;

beforeEach(() => {
  daemons = new Daemons();
});
afterEach(async () => {
  await daemons.stop();
}, 60_000);

/** A controller that should serve `model`, a link in the test's directory that leads nowhere yet. */
async function controllerFor(model: string) {
  const config = join(daemons.directory, 'controller.yaml');
  writeFileSync(config, `deployment: {model: ${model}, name: later}\n`);
  const store = join(daemons.directory, 'store');
  const controller = await daemons.controller(['--config', config, '--data-dir', store]);
  const inState = (state: string) =>
    eventually(deadlineMs, `the state ${state}`, async () => {
      const status = await controller.client.status();
      if (status.state !== state) throw new Error(`${status.state}: ${status.detail}`);
      return status;
    });
  return { ...controller, inState, store };
}

it('serves once the model is there, without a command and without a worker that comes or goes', async () => {
  const model = join(daemons.directory, 'model');
  const { grpc, inState } = await controllerFor(model);
  await daemons.worker(grpc);
  expect((await inState('waiting')).detail).toContain(model);
  symlinkSync(bundledModel, model);
  expect(await inState('ready')).toMatchObject({ modelId: 'later' });
}, 120_000);

it('can be taken back while it waits, and a file that asks for another model is heard', async () => {
  const { client, inState, stop } = await controllerFor(join(daemons.directory, 'nowhere'));
  await inState('waiting');
  await expect(client.undeploy('other')).rejects.toMatchObject({ code: 'model-not-found' });
  await client.undeploy('later');
  await inState('empty');
  await stop();
  const again = await controllerFor(bundledModel);
  await daemons.worker(again.grpc);
  await again.inState('ready');
  await again.stop();
  const third = await controllerFor(join(daemons.directory, 'third'));
  expect((await third.inState('waiting')).detail).toContain('third');
}, 120_000);
