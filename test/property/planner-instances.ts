import fc from 'fast-check';
import type { LatencyLine, PlanDevice, PlanInput } from '../../proto/domain/plan.ts';

/** How many random instances a property is tried on; HELS_PLANNER_INSTANCES=500 for the long run. */
export const instances = Number(process.env['HELS_PLANNER_INSTANCES'] ?? 60);

/** Seeds are fixed, so that a failure in CI is the same one here. */
export const parameters = { numRuns: instances, seed: 20240817 };

const around = (low: number, high: number): fc.Arbitrary<number> =>
  fc.double({ min: low, max: high, noNaN: true });

/** Seconds of a device `slowness` times slower than a fast one; each term strays on its own, so that devices have different strengths. */
function lineOf(slowness: number, scale: number): fc.Arbitrary<LatencyLine> {
  const term = (seconds: number): fc.Arbitrary<number> =>
    around(0.4, 1.6).map((stray) => seconds * slowness * stray * scale);
  return fc.record({
    constant: term(2e-4),
    perHeadGroup: term(5e-5),
    perFfnColumn: term(4e-7),
    perVocabRow: term(2e-8),
    perTokenHeadGroup: term(1e-6),
    perTokenFfnColumn: term(1e-9),
    perContextHeadGroup: term(1e-9),
  });
}

function deviceOf(memoryBytes: number): fc.Arbitrary<PlanDevice> {
  return fc
    .tuple(around(0, 2.5), around(0.5, 1.8), fc.boolean())
    .chain(([speed, memory, roofline]) => {
      const slowness = Math.exp(speed);
      const lines = roofline
        ? fc
            .tuple(lineOf(slowness, 1), lineOf(slowness, 0.7))
            .map((pair): LatencyLine[] => [...pair])
        : lineOf(slowness, 1);
      return fc.record({
        id: fc.constant(''),
        memoryBytes: fc.constant(Math.round(memoryBytes * memory) + 4e8),
        reservedBytes: fc.constant(1e8),
        decode: lines,
        prefill: lines,
        link: fc.record({ constant: around(0, 2e-4), perToken: around(0, 1e-6) }),
      });
    });
}

export interface InstanceLimits {
  devicesMax: number;
  headGroups: readonly number[];
  granules: readonly number[];
}

const usual: InstanceLimits = { devicesMax: 16, headGroups: [4, 8, 32, 40], granules: [8, 16, 27] };

/**
 * Mixed clusters of 2 to `devicesMax` devices: multi-head and grouped attention, one or two lines, memory from too little to plenty, a
 * granule that may leave a short last one.
 */
export function planInputs(limits: InstanceLimits = usual): fc.Arbitrary<PlanInput> {
  const shape = fc.record({
    devices: fc.integer({ min: 2, max: limits.devicesMax }),
    headGroups: fc.constantFrom(...limits.headGroups),
    granules: fc.constantFrom(...limits.granules),
    queryHeadsPerGroup: fc.constantFrom(1, 4),
    plenty: around(0.9, 4),
    shortfall: fc.constantFrom(0, 0, 100),
    sequences: fc.constantFrom(1, 8, 64),
  });
  return shape.chain((drawn) => {
    const ffnColumns = drawn.granules * 512 - drawn.shortfall;
    const model = {
      layers: 32,
      hiddenSize: 4096,
      headGroups: drawn.headGroups,
      queryHeadsPerGroup: drawn.queryHeadsPerGroup,
      headDim: 128,
      ffnColumns,
      ffnGranule: 512,
      ffnMatrices: 3,
      vocabRows: 32000,
      weightBytesPerParam: 2,
      kvBytesPerElement: 2,
    };
    const headBytes = 32 * 4096 * 128 * (2 * drawn.queryHeadsPerGroup + 2) * 2;
    const kvBytes = 32 * 2 * 128 * 2 * drawn.sequences * 512;
    const wholeBytes = drawn.headGroups * (headBytes + kvBytes) + 32 * 3 * 4096 * ffnColumns * 2;
    const device = deviceOf((wholeBytes * drawn.plenty) / drawn.devices);
    return fc
      .array(device, { minLength: drawn.devices, maxLength: drawn.devices })
      .map((devices) => ({
        model,
        workload: {
          sequences: drawn.sequences,
          contextTokens: 512,
          prefillChunk: 256,
          outputTokens: 128,
        },
        devices: devices.map((entry, index) => ({ ...entry, id: `device-${index}` })),
      }));
  });
}
