import { HelsError } from '../../proto/domain/errors.ts';
import type { LatencyLine } from '../../proto/domain/plan.ts';
import { fitPhase, type PhaseFit } from './fit-phase.ts';
import type { LoadPoint } from './latency-terms.ts';

/** The latency lines of one device, decode and prefill fitted apart. */
export interface LatencyFit {
  readonly decode: LatencyLine[];
  readonly prefill: LatencyLine[];
  /** Errors, condition numbers and residuals of the two fits. */
  readonly phases: { readonly decode: PhaseFit; readonly prefill: PhaseFit };
}

/** Fits a device's lines from the seconds measured at each point. Throws config-invalid when a phase has no points. */
export function fitLatency(points: readonly LoadPoint[], seconds: readonly number[]): LatencyFit {
  if (points.length !== seconds.length) {
    throw new HelsError(
      'config-invalid',
      `profile: ${points.length} points but ${seconds.length} measured times`,
      { field: 'seconds' },
    );
  }
  const fitOf = (prefill: boolean): PhaseFit => {
    const indices = [...points.keys()].filter((index) => points[index]?.prefill === prefill);
    return fitPhase(
      indices.map((index) => points[index] as LoadPoint),
      indices.map((index) => seconds[index] as number),
    );
  };
  const phases = { decode: fitOf(false), prefill: fitOf(true) };
  return { decode: phases.decode.lines, prefill: phases.prefill.lines, phases };
}
