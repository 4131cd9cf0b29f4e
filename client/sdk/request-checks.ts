/** Of requests: which of their fields may have which values. Ranges are those of the controller. */
import { workloadFields, workloadMax } from '../../proto/domain/workload.ts';
import {
  checkFlag,
  checkList,
  checkNumber,
  checkText,
  checkTokenIds,
  checkWhole,
  refuse,
  requireNumber,
  requireWhole,
  uint32Range,
} from './checks.ts';
import type { DeployOptions, GenerateInput, GenerateOptions, ReplanOptions } from './types.ts';

const int32Max = 2 ** 31 - 1;

/** Whole numbers of `generate`. */
export const generateRanges = {
  maxTokens: [1, int32Max],
  minTokens: [0, int32Max],
  topK: [-1, int32Max],
  seed: [0, Number.MAX_SAFE_INTEGER],
  logprobs: [-1, 20],
  priority: [-1000, 1000],
} as const;

type Whole = keyof typeof generateRanges;
const wholeFields = Object.keys(generateRanges) as readonly Whole[];

const inputs = ['prompt', 'promptTokenIds', 'messages'] as const;

export function checkInput(input: GenerateInput): void {
  const fields: Partial<Record<(typeof inputs)[number], unknown>> = input ?? {};
  const given = inputs.filter((name) => fields[name] !== undefined);
  if (given.length !== 1) {
    const what = given.length === 0 ? undefined : given;
    refuse('input', what, `exactly one of ${inputs.join(', ')}; give one`);
  }
  checkText('prompt', fields.prompt);
  checkTokenIds('promptTokenIds', fields.promptTokenIds);
  checkList('messages', fields.messages, 'messages', checkMessage);
}

function checkMessage(field: string, message: unknown): void {
  if (typeof message !== 'object' || message === null) {
    refuse(field, message, 'a message with role and content');
  }
  const { role, content } = message as { role?: unknown; content?: unknown };
  if (typeof role !== 'string') refuse(`${field}.role`, role, 'a text');
  if (typeof content !== 'string') refuse(`${field}.content`, content, 'a text');
}

export function checkGenerateOptions(options: GenerateOptions): void {
  for (const name of wholeFields) checkWhole(name, options[name], generateRanges[name]);
  checkNumber('temperature', options.temperature, [0, 2]);
  const { topP = 1, resume } = options;
  // On the wire, a 32-bit float, 0 means that it is not given.
  if (typeof topP !== 'number' || !(Math.fround(topP) > 0 && topP <= 1)) {
    refuse('topP', topP, 'a 32-bit float above 0 and up to 1; leave it out for 1');
  }
  checkText('model', options.model);
  checkText('cacheSalt', options.cacheSalt);
  checkList('stop', options.stop, 'texts', checkText);
  checkTokenIds('stopTokenIds', options.stopTokenIds);
  checkFlag('ignoreEndOfText', options.ignoreEndOfText);
  checkFlag('prefixCache', options.prefixCache);
  checkNumber('resumeForMs', options.resumeForMs, [0, Infinity]);
  if (!resume) return;
  checkTokenIds('resume.tokenIds', resume.tokenIds);
  requireWhole('resume.seed', resume.seed, generateRanges.seed);
}

export function checkDeployOptions(options: DeployOptions): void {
  for (const name of ['modelPath', 'modelId', 'numerics', 'quantization', 'kvPolicy'] as const) {
    checkText(name, options[name]);
  }
  checkWhole('workersMin', options.workersMin, [1, 1024]);
  checkWhole('workersTimeoutMs', options.workersTimeoutMs, [1, uint32Range[1]]);
  checkFlag('prefixCache', options.prefixCache);
  checkFlag('autoReplan', options.autoReplan);
  checkReplanOptions(options);
}

export function checkReplanOptions({ policy, workload, ranks }: ReplanOptions): void {
  checkText('policy', policy);
  for (const name of workloadFields) {
    checkWhole(`workload.${name}`, workload?.[name], [1, workloadMax[name]]);
  }
  checkFlag('workload.allowRemoteKv', workload?.allowRemoteKv);
  checkList('ranks', ranks, 'ranks', checkRank);
}

function checkRank(field: string, rank: unknown): void {
  if (typeof rank !== 'object' || rank === null) {
    refuse(field, rank, 'a rank with workerId, headGroups and ffnWeight');
  }
  const { workerId, headGroups, ffnWeight } = rank as Record<string, unknown>;
  checkText(`${field}.workerId`, workerId);
  requireWhole(`${field}.headGroups`, headGroups, uint32Range);
  requireNumber(`${field}.ffnWeight`, ffnWeight, [0, Number.MAX_VALUE]);
}
