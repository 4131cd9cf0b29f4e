import { resolve } from 'node:path';
import type { Command } from 'commander';
import { kvPolicies } from '../../../proto/domain/kv-policy.ts';
import { isModelId, modelIdAllowed } from '../../../proto/domain/model-id.ts';
import { planPolicies } from '../../../proto/domain/plan.ts';
import { quantizationOptions } from '../../../proto/domain/quantization.ts';
import { workersMinMax } from '../../../proto/domain/workload.ts';
import { type DeployOptions, HelsError } from '../../sdk/index.ts';
import { type Context, outputOf, withClient } from '../context.ts';
import { deployWithProgress } from '../deploy-progress.ts';
import { parseRanks } from '../parse-ranks.ts';
import { formatPlan } from '../plan-table.ts';
import { parseWholeNumber } from '../values.ts';
import { parseWorkload, type WorkloadOptions } from '../workload-options.ts';

export interface DeployCommandOptions extends WorkloadOptions {
  model: string;
  name?: string;
  policy?: string;
  numerics: string;
  quantization: string;
  workers: string;
  timeout: string;
  allowRemoteKv?: boolean;
  kvPolicy: string;
  ranks?: string;
  prefixCache: boolean;
  autoReplan: string;
}

function oneOf<T extends string>(value: string, allowed: readonly T[], option: string): T {
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) {
    throw new HelsError('usage', `${option}: '${value}' is not one of ${allowed.join(', ')}`);
  }
  return found;
}

function checkDeployOptions({ model, name, policy, ranks }: DeployCommandOptions): void {
  // It would be the current directory.
  if (model === '') throw new HelsError('usage', "--model: '' is not a model directory");
  if (name !== undefined && !isModelId(name)) {
    const shown = name.slice(0, 140);
    throw new HelsError('usage', `--name: '${shown}' is not ${modelIdAllowed}`);
  }
  if (policy !== undefined && ranks !== undefined) {
    throw new HelsError('usage', '--ranks: --policy is given too; give one of the two');
  }
}

/** Throws usage for values that cannot be. */
export function deployOptions(options: DeployCommandOptions): DeployOptions {
  checkDeployOptions(options);
  const { policy } = options;
  return {
    modelPath: resolve(options.model),
    ...(options.name === undefined ? {} : { modelId: options.name }),
    ...(policy === undefined ? {} : { policy: oneOf(policy, planPolicies, '--policy') }),
    numerics: oneOf(options.numerics, ['exact', 'fast'] as const, '--numerics'),
    quantization: oneOf(options.quantization, quantizationOptions, '--quantization'),
    workersMin: parseWholeNumber(options.workers, '--workers', 1, workersMinMax),
    workersTimeoutMs: 1000 * parseWholeNumber(options.timeout, '--timeout', 1, 86_400),
    workload: { ...parseWorkload(options), allowRemoteKv: options.allowRemoteKv === true },
    ...(options.ranks === undefined ? {} : { ranks: parseRanks(options.ranks) }),
    prefixCache: options.prefixCache,
    autoReplan: oneOf(options.autoReplan, ['on', 'off'] as const, '--auto-replan') === 'on',
    kvPolicy: oneOf(options.kvPolicy, kvPolicies, '--kv-policy'),
  };
}

export function addDeployCommand(program: Command, context: Context): void {
  program
    .command('deploy')
    .description('profile the workers, plan the split, load the model and serve it')
    .requiredOption(
      '--model <dir>',
      'Hugging Face model directory, as controller and workers see it',
    )
    .option('--name <id>', "model id in the HTTP API (default: the directory's name)")
    .option('--policy <policy>', `one of ${planPolicies.join(', ')} (default: hels)`)
    .option('--numerics <mode>', 'exact or fast', 'exact')
    .option('--quantization <type>', 'weights in memory: auto (as the files), int8 or int4', 'auto')
    .option('--workers <n>', 'wait for at least this many workers', '1')
    .option('--timeout <seconds>', 'how long to wait for workers', '60')
    .option(
      '--sequences <n>',
      'running sequences to plan for, 1 to 1024; above 64 more run at once (default: 8)',
    )
    .option('--context <tokens>', 'context length per sequence to plan for (default: 256)')
    .option(
      '--prefill-chunk <tokens>',
      'prompt tokens of a step to plan for, 1 to 8192; above 512 steps have more (default: 256)',
    )
    .option('--allow-remote-kv', 'KV may lie on another worker than its heads')
    .option('--kv-policy <policy>', `when KV runs out: ${kvPolicies.join(', ')}`, 'evict')
    .option('--ranks <split>', 'a split by hand: WORKER=HEADGROUPS/FFNWEIGHT,...')
    .option('--no-prefix-cache', 'compute every prompt whole')
    .option('--auto-replan <on|off>', 'plan anew by itself when load or devices change', 'on')
    .action(async (options: DeployCommandOptions, command: Command) => {
      const output = outputOf(context, command);
      const request = deployOptions(options);
      await withClient(command, async (client) => {
        const report = await deployWithProgress(client, request, output, context.signal);
        output.result(report, () => formatPlan(report));
      });
    });
}
