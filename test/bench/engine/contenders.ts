/** The contenders, loaded and filled: our engine in both numerics, two ranks of it, and llama.cpp. */
import { Contender } from './contender.ts';

export const batches = [1, 8, 16, 32, 64];
export const prefillTokens = 256;
const decodeContext = 128;
const batchMax = Math.max(...batches);
/** Of one sequence; steps of one measurement follow each other. */
const filledTokens = decodeContext + 32;

export interface Loaded {
  contender: Contender;
  loadSeconds: number;
  /** Grown by loading, KV not written yet. */
  loadBytes: number;
}

interface HelsOptions {
  directory: string;
  threads: number;
  numerics: 'exact' | 'fast';
  /** At load; as the files are unless given. */
  quantization?: 'int8' | 'int4';
}

async function loadRank(
  name: string,
  options: HelsOptions,
  rank: number,
  ranks: number,
): Promise<Loaded> {
  const contender = new Contender(name, './hels-main.ts');
  try {
    await contender.call('ping');
    const before = contender.residentBytes();
    const loadSeconds = await contender.call<number>('load', {
      quantization: 'auto',
      ...options,
      rank,
      ranks,
      sequences: batchMax,
      contextTokens: prefillTokens,
    });
    return { contender, loadSeconds, loadBytes: contender.residentBytes() - before };
  } catch (error) {
    await contender.stop();
    throw error;
  }
}

export async function startHels(options: HelsOptions): Promise<Loaded> {
  const loaded = await loadRank(`hels ${options.numerics}`, options, 0, 1);
  await loaded.contender.call('fill', { sequences: batchMax, tokens: filledTokens });
  return loaded;
}

/** Two processes with one thread each, connected as two workers of one host are. */
export async function startTwoRanks(directory: string): Promise<Contender[]> {
  const options = { directory, threads: 1, numerics: 'exact' } as const;
  const ranks: Contender[] = [];
  try {
    for (const rank of [0, 1]) {
      ranks.push((await loadRank(`hels rank ${rank}`, options, rank, 2)).contender);
    }
    const addresses = await Promise.all(ranks.map((rank) => rank.call('openCollective')));
    await Promise.all(ranks.map((rank) => rank.call('connect', addresses)));
    const fill = { sequences: batchMax, tokens: filledTokens };
    await Promise.all(ranks.map((rank) => rank.call('fill', fill)));
    return ranks;
  } catch (error) {
    await Promise.all(ranks.map((rank) => rank.stop()));
    throw error;
  }
}

/** llama.cpp with the model, no context open. Throws why it does not load here. */
export async function startPeer(installed: string, file: string): Promise<Loaded> {
  const contender = new Contender('llama.cpp', './peer-main.ts', [installed]);
  try {
    await contender.call('ping');
    const before = contender.residentBytes();
    const seconds = await contender.call<number>('load', { file });
    return { contender, loadSeconds: seconds, loadBytes: contender.residentBytes() - before };
  } catch (error) {
    await contender.stop();
    throw error;
  }
}

/** One sequence more than the largest batch: it takes the prefills. */
export async function openPeer(peer: Contender, threads: number): Promise<void> {
  await peer.call('open', { sequences: batchMax + 1, contextTokens: prefillTokens, threads });
  await peer.call('fill', { sequences: batchMax, tokens: decodeContext });
}

/** Seconds of one prefill of prefillTokens. */
export function prefill(contender: Contender): Promise<number> {
  return contender.call('prefill', { tokens: prefillTokens, sequence: batchMax });
}

/** Seconds per step. */
export function decode(contender: Contender, batch: number, steps: number): Promise<number> {
  return contender.call('decode', { batch, steps, context: decodeContext });
}
