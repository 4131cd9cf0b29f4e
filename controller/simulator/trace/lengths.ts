import type { Random } from '../random.ts';
import { lengthTokensMax } from './arrival.ts';

/** Log-normal: ln(tokens) has this mean and standard deviation. */
interface LogNormal {
  readonly logMean: number;
  readonly logDeviation: number;
}

export interface LengthModel {
  readonly prompt: LogNormal;
  readonly output: LogNormal;
}

/** 90th percentile of the standard normal distribution. */
const normalP90 = 1.2815515655446004;

const fromMedianAndP90 = (median: number, p90: number): LogNormal => ({
  logMean: Math.log(median),
  logDeviation: Math.log(p90 / median) / normalP90,
});

const fromMean = (mean: number, logDeviation: number): LogNormal => ({
  logMean: Math.log(mean) - logDeviation ** 2 / 2,
  logDeviation,
});

/** Mean and deviation of ln(tokens) over the 19,366 requests of the Azure LLM inference trace 2023, conversation (measured from its file). */
const azure: LengthModel = {
  prompt: { logMean: 6.6333, logDeviation: 0.9852 },
  output: { logMean: 5.019, logDeviation: 0.859 },
};

/** What is published of each data set, and what is not (docs/simulator.md, "Lengths"). */
export const lengthModels = {
  azure,
  /** Means of Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (SOSP 2023), section 6.1; the spread is not given there: Azure's. */
  sharegpt: {
    prompt: fromMean(161.31, azure.prompt.logDeviation),
    output: fromMean(337.99, azure.output.logDeviation),
  },
  /** Medians and 90th percentiles of openchat_sharegpt4 in Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve" (OSDI 2024), table 2. */
  openchat: {
    prompt: fromMedianAndP90(1730, 5696),
    output: fromMedianAndP90(415, 834),
  },
} as const satisfies Record<string, LengthModel>;

export type LengthModelName = keyof typeof lengthModels;

/** A whole number of tokens, from 1 on. */
export function drawTokens(random: Random, { logMean, logDeviation }: LogNormal): number {
  const tokens = Math.round(Math.exp(logMean + logDeviation * random.normal()));
  return Math.min(Math.max(tokens, 1), lengthTokensMax);
}
