import { parseArgs } from 'node:util';
import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanPolicy } from '../../proto/domain/plan.ts';
import { limits } from '../limits.ts';
import type { ClusterChange } from '../simulator/cluster-life.ts';
import type { ServiceLevel } from '../simulator/report.ts';
import type { ClusterChanges } from '../simulator/simulate.ts';
import { parseTraceSource, type TraceSource } from '../simulator/trace/trace-source.ts';
import { policiesOf } from './plan-options.ts';
import { causeText } from './read-file.ts';

/** Where the devices and the model come from. */
type DeviceSource =
  | { readonly type: 'input'; readonly path: string }
  | {
      readonly type: 'cluster';
      readonly path: string;
      readonly model: string;
      readonly contextTokens: number;
    };

export interface SimulateOptions {
  readonly devices: DeviceSource;
  readonly trace: TraceSource;
  /** Of the trace, from its beginning. */
  readonly requestsMax: number | undefined;
  readonly policies: readonly PlanPolicy[];
  /** Default: the plan input's. */
  readonly sequences: number | undefined;
  readonly prefillChunk: number | undefined;
  readonly serviceLevel: ServiceLevel;
  readonly seed: number;
  readonly noise: number;
  readonly controlSeconds: number;
  readonly cluster: ClusterChanges | undefined;
  readonly out: string | undefined;
  readonly json: boolean;
}

const text = { type: 'string' } as const;

const options = {
  input: text,
  cluster: text,
  model: text,
  context: text,
  trace: text,
  requests: text,
  policy: text,
  sequences: text,
  'prefill-chunk': text,
  slo: text,
  seed: text,
  noise: text,
  control: text,
  lose: text,
  join: text,
  notice: text,
  redeploy: text,
  out: text,
  json: { type: 'boolean', default: false },
} as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
type TextOption = Exclude<keyof Values, 'json'>;

const refuse = (option: string, problem: string): never => {
  throw new HelsError('usage', `--${option} ${problem}`, { field: `--${option}` });
};

const countMax = 2 ** 24;

/** The lease of a worker at its controller. */
const leaseDefault = '5s';

function wholeOf(values: Values, option: TextOption, low = 1, high = countMax): number | undefined {
  const given = values[option];
  if (given === undefined) return undefined;
  const value = given === '' ? Number.NaN : Number(given);
  if (Number.isInteger(value) && value >= low && value <= high) return value;
  return refuse(option, `is '${given}'; it must be a whole number from ${low} to ${high}`);
}

/** `1s`, `100ms`, `0.25s`. */
function secondsOf(option: string, given: string): number {
  const parts = /^(\d+(?:\.\d+)?)(ms|s)$/.exec(given);
  if (parts === null) {
    return refuse(option, `has '${given}'; a time is written as 100ms or 1.5s`);
  }
  return Number(parts[1]) / (parts[2] === 'ms' ? 1000 : 1);
}

/** `ttft=1s,tpot=100ms`; these two are the defaults. */
function serviceLevelOf(given = ''): ServiceLevel {
  const level = { ttft: 1, tpot: 0.1 };
  for (const part of given.split(',').filter((one) => one !== '')) {
    const [name = '', value = ''] = part.split('=');
    if (name !== 'ttft' && name !== 'tpot') {
      return refuse('slo', `has '${part}'; it must be like ttft=1s,tpot=100ms`);
    }
    level[name] = secondsOf('slo', value);
  }
  return { ttftSeconds: level.ttft, tpotSeconds: level.tpot };
}

function noiseOf(given = '0'): number {
  const value = given === '' ? Number.NaN : Number(given);
  if (value >= 0 && value <= 1) return value;
  return refuse('noise', `is '${given}'; it must be a number from 0 to 1`);
}

function deviceSource(values: Values): DeviceSource {
  const { input, cluster, model } = values;
  if (input !== undefined && cluster !== undefined) {
    refuse('cluster', 'and --input exclude each other; a plan input names its devices itself');
  }
  if (cluster !== undefined) {
    if (model === undefined) {
      return refuse('model', 'is missing; name a config.json or the directory that holds one');
    }
    const contextTokens = wholeOf(values, 'context') ?? 1024;
    return { type: 'cluster', path: cluster, model, contextTokens };
  }
  if (input === undefined) {
    return refuse('cluster', 'is missing; name a cluster file and a --model, or a plan --input');
  }
  const foreign = (['model', 'context'] as const).find((option) => values[option] !== undefined);
  if (foreign !== undefined) refuse(foreign, 'belongs to --cluster; a plan input says it itself');
  return { type: 'input', path: input };
}

/** `a100-0@60s,a100-1@90s`. */
function changesOf(option: 'lose' | 'join', given = ''): ClusterChange[] {
  const type = option === 'lose' ? 'worker-lost' : 'worker-joined';
  return given
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const [device = '', time = '', ...rest] = part.split('@');
      if (device === '' || rest.length > 0) refuse(option, `has '${part}'; write DEVICE@TIME`);
      return { type, device, atSeconds: secondsOf(option, time) };
    });
}

function clusterChanges(values: Values): ClusterChanges | undefined {
  const changes = [...changesOf('lose', values.lose), ...changesOf('join', values.join)];
  const { notice, redeploy } = values;
  if (changes.length === 0) {
    if (notice !== undefined) refuse('notice', 'belongs to --lose');
    if (redeploy !== undefined) refuse('redeploy', 'belongs to --lose and --join');
    return undefined;
  }
  if (redeploy === undefined) {
    return refuse('redeploy', 'is missing; say how long a deployment takes, for example 30s');
  }
  return {
    changes,
    noticeSeconds: secondsOf('notice', notice ?? leaseDefault),
    redeploySeconds: secondsOf('redeploy', redeploy),
    heldSeconds: limits.heldMsMax / 1000,
    returnWaitSeconds: limits.returnWaitMsMax / 1000,
    returnWaitingMax: limits.returnWaitingMax,
  };
}

function readValues(args: readonly string[]): Values {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    throw new HelsError('usage', causeText(error).replaceAll('\n', ' '), { cause: error });
  }
}

/** The command line of `simulate`. Throws usage naming the option, its value and the allowed range. */
export function parseSimulateOptions(args: readonly string[]): SimulateOptions {
  const values = readValues(args);
  const devices = deviceSource(values);
  const { trace } = values;
  if (trace === undefined) {
    return refuse(
      'trace',
      'is missing; name a trace file, or poisson:rate=2,count=100,lengths=azure',
    );
  }
  return {
    devices,
    trace: parseTraceSource(trace),
    requestsMax: wholeOf(values, 'requests'),
    policies: policiesOf(values.policy),
    sequences: wholeOf(values, 'sequences') ?? (devices.type === 'cluster' ? 64 : undefined),
    prefillChunk:
      wholeOf(values, 'prefill-chunk') ?? (devices.type === 'cluster' ? 512 : undefined),
    serviceLevel: serviceLevelOf(values.slo),
    seed: wholeOf(values, 'seed', 0, Number.MAX_SAFE_INTEGER - 1) ?? 1,
    noise: noiseOf(values.noise),
    controlSeconds: secondsOf('control', values.control ?? '0s'),
    cluster: clusterChanges(values),
    out: values.out,
    json: values.json,
  };
}
