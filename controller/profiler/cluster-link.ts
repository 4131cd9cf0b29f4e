import type { LinkLine, PlanModel } from '../../proto/domain/plan.ts';

export const linkKinds = ['nvlink', 'pcie', 'ethernet'] as const;
export type LinkKind = (typeof linkKinds)[number];

/** How the sums between the devices travel. */
export interface LinkRates {
  /** Seconds of one all-reduce of a few bytes. */
  readonly latencySeconds: number;
  /** Of one device, one direction. */
  readonly bytesPerSecond: number;
}

/** Stated, not measured: a small all-reduce over each kind. A deployed group measures its own (`helsctl deploy`). */
export const linkLatencySeconds: Readonly<Record<LinkKind, number>> = {
  nvlink: 1.2e-5,
  pcie: 2.5e-5,
  ethernet: 1e-4,
};

/** 25 Gbit/s, a usual data-centre port. */
export const ethernetBytesPerSecond = 3.125e9;

/** Bytes of one element of a partial sum: int64 fixed point in exact numerics, else the type of what is computed, as KV is kept. */
function payloadBytes(numerics: 'exact' | 'fast', model: PlanModel): number {
  return numerics === 'exact' ? 8 : model.kvBytesPerElement;
}

/**
 * Seconds of one step's collectives: two sums per layer of hiddenSize elements per token, and one of a few bytes to agree on the sampled
 * tokens. A ring moves 2*(n - 1)/n of the payload through each device's link, n the devices of the plan: `perTokenRing` is the whole payload.
 */
export function linkLine(rates: LinkRates, model: PlanModel, numerics: 'exact' | 'fast'): LinkLine {
  const { layers, hiddenSize } = model;
  const bytesPerToken = 2 * layers * hiddenSize * payloadBytes(numerics, model);
  return {
    constant: (2 * layers + 1) * rates.latencySeconds,
    perToken: 0,
    perTokenRing: bytesPerToken / rates.bytesPerSecond,
  };
}
