import { kvBytesPerToken, type ModelSpec } from '../../proto/domain/model-spec.ts';
import type { LoadPoint } from './latency-terms.ts';

export interface ProfileLimits {
  /** Bytes that the grid's largest KV may take: a share of what the device may use. */
  readonly kvBytesMax: number;
  /** Tokens of one step that the engine accepts; the largest chunk measured. */
  readonly stepTokensMax: number;
  /** Sequences that run at once; the largest batch measured. */
  readonly sequencesMax: number;
}

/** A device's share of every layer, as fractions of the model. */
interface Mixture {
  readonly heads: number;
  readonly columns: number;
  readonly rows: number;
  /** Context as a fraction of the longest. */
  readonly context: number;
}

/**
 * The shares measured at every token count. Each part alone, all together at short and long context, and mixtures of halves and
 * small shares: together they identify every term, whole shares and splinters alike.
 */
const mixtures: readonly Mixture[] = [
  { heads: 1, columns: 1, rows: 1, context: 0.1 },
  { heads: 1, columns: 1, rows: 1, context: 1 },
  { heads: 0.5, columns: 0.5, rows: 0.5, context: 0.5 },
  { heads: 1, columns: 0, rows: 0, context: 1 },
  { heads: 0.5, columns: 0, rows: 0, context: 0.1 },
  { heads: 0, columns: 1, rows: 0, context: 0.1 },
  { heads: 0, columns: 0.5, rows: 1, context: 0.1 },
  { heads: 0.25, columns: 0.75, rows: 0.25, context: 1 },
  { heads: 0.75, columns: 0.25, rows: 0.5, context: 0.3 },
];

const decodeTokens = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const prefillTokens = [16, 64, 256, 512, 1024];

const mixedLoads = [
  { decode: 1, chunk: 64 },
  { decode: 4, chunk: 256 },
  { decode: 16, chunk: 128 },
];
const mixedMixtures = mixtures.filter(({ heads, columns }) => heads > 0 && columns > 0);

/** The longest context in tokens that a grid measures: long enough for its slope, short enough to be quick. */
const contextTokensMax = 1024;

/** Tokens of KV that the largest point holds, whatever the room: more would take most of the time to tell one slope. */
export const gridKvTokensMax = 32 * contextTokensMax;

/** A share in whole units: at least one unless it is 0, a multiple of `granule` or everything. */
function unitsOf(share: number, total: number, granule: number): number {
  if (share === 0) return 0;
  return Math.min(total, Math.max(1, Math.round((share * total) / granule)) * granule);
}

function pointOf(
  model: ModelSpec,
  mixture: Mixture,
  load: { prefill: boolean; tokens: number; contextTokens: number },
): LoadPoint {
  return {
    ...load,
    headGroups: unitsOf(mixture.heads, model.headGroups, 1),
    ffnColumns: unitsOf(mixture.columns, model.ffnColumns, model.ffnGranule),
    vocabRows: unitsOf(mixture.rows, model.vocabRows, 1),
  };
}

/** Tokens of one sequence that positions and memory allow when `sequences` are resident. */
function contextMax(model: ModelSpec, limits: ProfileLimits, sequences: number): number {
  const resident = limits.kvBytesMax / kvBytesPerToken(model, model.headGroups);
  return Math.floor(Math.min(model.maxPositions, contextTokensMax, resident / sequences));
}

/** Decode: `tokens` sequences, each attending to the same number of tokens. */
function decodePoints(model: ModelSpec, limits: ProfileLimits): LoadPoint[] {
  return decodeTokens.flatMap((tokens) => {
    const longest = contextMax(model, limits, tokens);
    if (longest < 1 || tokens > Math.min(limits.sequencesMax, limits.stepTokensMax)) return [];
    return mixtures.map((mixture) => {
      const context = Math.max(1, Math.round(mixture.context * longest));
      return pointOf(model, mixture, { prefill: false, tokens, contextTokens: tokens * context });
    });
  });
}

/** Prefill: a chunk of `tokens` that ends at the context; token i of it attends to all before it and to itself. */
function prefillPoints(model: ModelSpec, limits: ProfileLimits): LoadPoint[] {
  const longest = contextMax(model, limits, 1);
  const chunks = new Set(
    prefillTokens.map((tokens) => Math.min(tokens, longest, limits.stepTokensMax)),
  );
  return [...chunks].flatMap((tokens) => {
    if (tokens < 1) return [];
    return mixtures.map((mixture) => {
      const before = Math.round(mixture.context * (longest - tokens));
      const contextTokens = tokens * before + (tokens * (tokens + 1)) / 2;
      return pointOf(model, mixture, { prefill: true, tokens, contextTokens });
    });
  });
}

/** Mixed: decode at a few batch sizes beside a chunk, at the shares that tell its context's cost. */
function mixedPoints(model: ModelSpec, limits: ProfileLimits): LoadPoint[] {
  return mixedLoads.flatMap(({ decode, chunk }) => {
    const longest = contextMax(model, limits, decode + 1);
    const chunkTokens = Math.min(chunk, longest, limits.stepTokensMax - decode);
    if (chunkTokens < 1) return [];
    return mixedMixtures.map((mixture) => {
      const context = Math.max(1, Math.round(mixture.context * longest));
      const before = Math.round(mixture.context * (longest - chunkTokens));
      const load = { prefill: false, tokens: decode, contextTokens: decode * context };
      const chunkContextTokens = chunkTokens * before + (chunkTokens * (chunkTokens + 1)) / 2;
      return { ...pointOf(model, mixture, load), chunkTokens, chunkContextTokens };
    });
  });
}

/** Points of equal load, such as mixtures of a model with one head group, are measured once. */
function distinct(points: readonly LoadPoint[]): LoadPoint[] {
  return [...new Map(points.map((point) => [JSON.stringify(point), point])).values()];
}

/**
 * The loads to measure on a device, decode first, then prefill, then mixed: about a hundred steps of the model, within its positions and
 * `limits`. Empty for a phase only when not even one token fits.
 */
export function profileGrid(model: ModelSpec, limits: ProfileLimits): LoadPoint[] {
  return distinct([
    ...decodePoints(model, limits),
    ...prefillPoints(model, limits),
    ...mixedPoints(model, limits),
  ]);
}

/**
 * The order in which to measure `count` points: every beginning of it is spread over the whole grid, so that a device too slow for
 * all of them still gets lines from a thinner grid.
 */
export function measuringOrder(count: number): number[] {
  const golden = (Math.sqrt(5) - 1) / 2;
  const place = (index: number) => (index * golden) % 1;
  return [...Array(count).keys()].sort((left, right) => place(left) - place(right));
}
