import { parseArgs } from 'node:util';
import { HelsError } from '../../proto/domain/errors.ts';
import { type PlanPolicy, planPolicies } from '../../proto/domain/plan.ts';
import { causeText } from './read-file.ts';

interface OutputOptions {
  readonly explain: boolean;
  readonly json: boolean;
}

/** `--input FILE`: the planner's own contract. */
export interface InputOptions extends OutputOptions {
  readonly input: string;
  /** Goes before the file's. */
  readonly policy: PlanPolicy | undefined;
}

/** `--cluster FILE --model FILE`: devices by their profiles. */
export interface ClusterOptions extends OutputOptions {
  readonly cluster: string;
  readonly model: string;
  readonly sequences: number;
  readonly contextTokens: number;
  readonly prefillChunk: number;
  readonly policies: readonly PlanPolicy[];
  readonly stepSecondsMax: number | undefined;
  readonly tokensPerSecondMin: number | undefined;
}

const text = { type: 'string' } as const;
const flag = { type: 'boolean', default: false } as const;

const options = {
  input: text,
  cluster: text,
  model: text,
  sequences: text,
  context: text,
  'prefill-chunk': text,
  policy: text,
  'step-seconds-max': text,
  'tokens-per-second-min': text,
  explain: flag,
  json: flag,
} as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];

const clusterOnly = [
  'model',
  'sequences',
  'context',
  'prefill-chunk',
  'step-seconds-max',
  'tokens-per-second-min',
] as const;

const refuse = (option: string, problem: string): never => {
  throw new HelsError('usage', `--${option} ${problem}`, { field: `--${option}` });
};

const countMax = 2 ** 24;

function wholeOf(values: Values, option: keyof Values, otherwise: number): number {
  const given = values[option];
  if (given === undefined) return otherwise;
  const value = Number(given);
  if (given !== '' && Number.isInteger(value) && value >= 1 && value <= countMax) return value;
  return refuse(option, `is '${given}'; it must be a whole number from 1 to ${countMax}`);
}

function positiveOf(values: Values, option: keyof Values): number | undefined {
  const given = values[option];
  if (given === undefined) return undefined;
  const value = Number(given);
  if (given !== '' && value > 0 && Number.isFinite(value)) return value;
  return refuse(option, `is '${given}'; it must be a number above 0`);
}

/** `all`, or names separated by commas; the first is the plan that is printed. */
export function policiesOf(given = 'all'): PlanPolicy[] {
  if (given === 'all') return [...planPolicies];
  const names = [...new Set(given.split(','))];
  const wrong = names.find((name) => !planPolicies.some((policy) => policy === name));
  if (wrong !== undefined) {
    refuse('policy', `names '${wrong}'; it must be all, or some of ${planPolicies.join(',')}`);
  }
  return names as PlanPolicy[];
}

/** A plan input is planned by one policy. */
function policyOf(given: string | undefined): PlanPolicy | undefined {
  if (given === undefined) return undefined;
  const policy = planPolicies.find((name) => name === given);
  return (
    policy ??
    refuse('policy', `is '${given}'; with --input it must be one of ${planPolicies.join(', ')}`)
  );
}

function clusterOptions(values: Values, cluster: string): ClusterOptions {
  const { model, explain, json } = values;
  if (model === undefined) {
    return refuse('model', 'is missing; name a config.json or the directory that holds one');
  }
  const contextTokens = wholeOf(values, 'context', 1024);
  return {
    cluster,
    model,
    explain,
    json,
    contextTokens,
    sequences: wholeOf(values, 'sequences', 8),
    prefillChunk: wholeOf(values, 'prefill-chunk', Math.min(512, contextTokens)),
    policies: policiesOf(values.policy),
    stepSecondsMax: positiveOf(values, 'step-seconds-max'),
    tokensPerSecondMin: positiveOf(values, 'tokens-per-second-min'),
  };
}

function readValues(args: readonly string[]): Values {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    throw new HelsError('usage', causeText(error).replaceAll('\n', ' '), { cause: error });
  }
}

/** The command line of `plan`. Throws usage naming the option, its value and the allowed range. */
export function parsePlanOptions(args: readonly string[]): InputOptions | ClusterOptions {
  const values = readValues(args);
  const { input, cluster, policy, explain, json } = values;
  if (input !== undefined && cluster !== undefined) {
    refuse('cluster', 'and --input exclude each other; a plan input names its devices itself');
  }
  if (cluster !== undefined) return clusterOptions(values, cluster);
  if (input === undefined) {
    return refuse(
      'input',
      'is missing; name the plan input file, or - for standard input; or give --cluster and --model',
    );
  }
  const foreign = clusterOnly.find((option) => values[option] !== undefined);
  if (foreign !== undefined) {
    refuse(foreign, 'belongs to --cluster; a plan input says it itself');
  }
  return { input, policy: policyOf(policy), explain, json };
}
