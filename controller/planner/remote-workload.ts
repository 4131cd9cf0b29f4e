/** What the planner must know of a workload whose KV may lie on other ranks than its heads (docs/planner.md). Pure. */

import { gpuLoanBlockTokens, isGpuLoan, loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import type { LinkLine, PlanInput, PlanModel } from '../../proto/domain/plan.ts';
import { linesAt, linkOf } from './step-lines.ts';

/** The workload and the devices as loans see them; bytes and seconds of all layers. */
export interface RemoteKv {
  /** Tokens whose KV must lie somewhere. */
  readonly residentTokens: number;
  readonly blockTokens: number;
  /** Whole blocks that they take, lowest addresses first. */
  readonly usedBlocks: number;
  /** Of a step, by head group: queries of all its rows to a holder. */
  readonly queryBytes: number;
  /** Of a step, by head group: of every block that it attends to the parts back, or, on processors, the block itself where that is less. */
  readonly answerBytes: number;
  /** By device: attending to the whole context for one head group. */
  readonly contextSeconds: readonly number[];
  readonly secondsPerByte: readonly number[];
  /** By device: beginning the two exchanges of every layer. */
  readonly exchangeSeconds: readonly number[];
}

/** Without eviction the KV of every sequence is resident; with it at least one whole sequence is, since it runs only when all its KV can be reached. */
export function residentSequencesMin({ workload }: PlanInput): number {
  return workload.allowEviction === true ? 1 : workload.sequences;
}

/** Bytes of an element of a sum, by which a link's seconds for a token become seconds for a byte: int64 of exact numerics. */
const sumBytes = 8;
const partElementBytes = 4;

/** The parts (m, l, o) of one row of one query head, in f32. */
export const attentionPartBytes = (headDim: number): number => (headDim + 2) * partElementBytes;

export function linkSecondsPerByte(
  { perToken, perTokenRing = 0 }: LinkLine,
  { layers, hiddenSize }: PlanModel,
): number {
  return (perToken + perTokenRing) / (2 * layers * hiddenSize * sumBytes);
}

export function remoteKvOf(
  input: PlanInput,
  residentSequences = residentSequencesMin(input),
): RemoteKv | null {
  const { model, workload, devices } = input;
  if (workload.allowRemoteKv !== true) return null;
  const { sequences, contextTokens } = workload;
  const { layers, queryHeadsPerGroup, headDim, kvBytesPerElement } = model;
  const part = queryHeadsPerGroup * attentionPartBytes(headDim);
  const blockTokens = input.loanBlockTokens ?? loanBlockTokens;
  const blocks = Math.ceil(contextTokens / blockTokens);
  const block = 2 * blockTokens * headDim * kvBytesPerElement;
  const isGpu = isGpuLoan(blockTokens);
  const answer = isGpu ? (blockTokens / gpuLoanBlockTokens) * part : Math.min(part, block);
  const rowElementBytes = isGpu ? kvBytesPerElement : partElementBytes;
  const links = devices.map((device) => device.exchangeLink ?? linkOf(device, input));
  return {
    residentTokens: residentSequences * contextTokens,
    blockTokens,
    usedBlocks: residentSequences * blocks,
    queryBytes: layers * sequences * queryHeadsPerGroup * headDim * rowElementBytes,
    answerBytes: sequences * blocks * layers * answer,
    contextSeconds: devices.map(({ decode }) => {
      const lines = linesAt(decode, 0, sequences * contextTokens);
      const bare = linesAt(decode, 0, 0);
      return Math.max(
        ...lines.map((line, at) => line.perHeadGroup - (bare[at]?.perHeadGroup ?? 0)),
      );
    }),
    secondsPerByte: links.map((link) => linkSecondsPerByte(link, model)),
    exchangeSeconds: links.map(({ constant }) => (constant * 2 * layers) / (2 * layers + 1)),
  };
}
