/** OpenAI's own client against real daemons: what the contract says of a fake engine holds for three ranks over sockets. */
import { afterAll, beforeAll } from 'vitest';
import { openaiContract } from '../contract/openai-api.contract.ts';
import { bundledModelId, idle, startTestCluster, type TestCluster } from '../support/daemons.ts';

let test: TestCluster;

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1', 'cpu?threads=1']);
  await test.deploy({ policy: 'equal' });
});

afterAll(async () => {
  await test?.stop();
});

openaiContract(() => ({
  baseUrl: test.cluster.httpUrl,
  model: bundledModelId,
  contextTokensMax: 1024,
  idle: () => idle(test.cluster.client),
}));
