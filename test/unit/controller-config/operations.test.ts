import { describe, expect, it } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { parseControllerConfig } from '../../../controller/config.ts';
import { OperationsService } from '../../../controller/operations.ts';

function setUp() {
  const deployed: DeploymentRequest[] = [];
  const coordinator = { deploy: (request: DeploymentRequest) => deployed.push(request) };
  const nobody = null as never;
  const operations = new OperationsService(coordinator as never, nobody, nobody, nobody, nobody);
  return { operations, deployed };
}

describe('the prefix cache of a deployment', () => {
  it.each([
    ['deployment: { model: /m }', true],
    ['deployment: { model: /m, prefixCache: false }', false],
  ])('is what the configuration file says: %s', (yaml, prefixCache) => {
    const config = parseControllerConfig(['--config', 'c'], '0', () => yaml);
    expect(setUp().operations.configured(config.deployment)).toMatchObject({ prefixCache });
  });

  it.each([true, false])('is what the caller of deploy says: switched off %s', (noPrefixCache) => {
    const { operations, deployed } = setUp();
    const plain = {
      modelPath: '/m',
      modelId: '',
      policy: '',
      numerics: '',
      workersMin: 1,
      quantization: '',
    };
    const rest = {
      workersTimeoutMs: 0,
      workload: null,
      ranks: [],
      noPrefixCache,
      noAutoReplan: noPrefixCache,
      kvPolicy: '',
    };
    operations.deploy({ ...plain, ...rest }, new AbortController().signal);
    const expected = { prefixCache: !noPrefixCache, autoReplan: !noPrefixCache };
    expect(deployed).toMatchObject([{ modelPath: '/m', ...expected }]);
  });
});

describe('the load of a deployment', () => {
  const configured = (yaml: string) => {
    const config = parseControllerConfig(['--config', 'c'], '0', () => yaml);
    return setUp().operations.configured(config.deployment)?.workload;
  };

  it('is what the configuration file says, zeroes what it leaves out', () => {
    const none = { sequences: 0, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };
    expect(configured('deployment: { model: /m }')).toEqual({ ...none, allowRemoteKv: false });
    const given = 'sequences: 128, contextTokens: 2048, prefillChunk: 1024, allowRemoteKv: true';
    expect(configured(`deployment: { model: /m, ${given} }`)).toEqual({
      ...{ sequences: 128, contextTokens: 2048, prefillChunk: 1024 },
      ...{ outputTokens: 0, allowRemoteKv: true },
    });
  });

  it.each([
    ['sequences: 0', /deployment.sequences is 0; it .* from 1 to 1024/],
    ['sequences: 1025', /deployment.sequences is 1025; it .* from 1 to 1024/],
    ['prefillChunk: 8193', /deployment.prefillChunk is 8193; it .* from 1 to 8192/],
    ['contextTokens: 1.5', /deployment.contextTokens is 1.5; it .* from 1 to 1048576/],
  ])('that cannot be, %s, is refused by name with the range', (field, message) => {
    expect(() => configured(`deployment: { model: /m, ${field} }`)).toThrow(message);
  });
});

describe('the KV policy of a deployment', () => {
  it.each([
    ['deployment: { model: /m }', 'evict'],
    ['deployment: { model: /m, kvPolicy: slots }', 'slots'],
  ])('is what the configuration file says: %s', (yaml, kvPolicy) => {
    const config = parseControllerConfig(['--config', 'c'], '0', () => yaml);
    expect(setUp().operations.configured(config.deployment)).toMatchObject({ kvPolicy });
  });

  it('that is not known is refused with those that are', () => {
    expect(() =>
      parseControllerConfig(['--config', 'c'], '0', () => 'deployment: { model: /m, kvPolicy: x }'),
    ).toThrow(/deployment.kvPolicy.*evict.*replay.*reserve.*slots/);
  });
});
