import type { LatencyLine, PlanDevice, PlanInput } from '../../../proto/domain/plan.ts';

/** A device whose decode and prefill share one line. Memory far above any need unless given. */
export function device(
  id: string,
  line: LatencyLine,
  overrides: Partial<PlanDevice> = {},
): PlanDevice {
  return { id, memoryBytes: 1e9, reservedBytes: 0, decode: line, prefill: line, ...overrides };
}

/**
 * A model small enough for sums by hand: one head group weighs 2*8*4*(2*1+2)*2 = 512 bytes, one FFN column 2*3*8*2 = 96, one row 16,
 * the embedding 10*16 = 160; a token of one head group takes 2*2*4*2 = 32 bytes of KV. Load: T = 2, A = 20.
 */
export function smallInput(devices: PlanDevice[], overrides: Partial<PlanInput> = {}): PlanInput {
  return {
    model: {
      layers: 2,
      hiddenSize: 8,
      headGroups: 4,
      queryHeadsPerGroup: 1,
      headDim: 4,
      ffnColumns: 16,
      ffnGranule: 4,
      ffnMatrices: 3,
      vocabRows: 10,
      weightBytesPerParam: 2,
      kvBytesPerElement: 2,
    },
    workload: { sequences: 2, contextTokens: 10, prefillChunk: 3, outputTokens: 5 },
    devices,
    ...overrides,
  };
}
