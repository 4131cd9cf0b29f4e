import { HelsError } from '../../proto/domain/errors.ts';
import type { LatencyLine } from '../../proto/domain/plan.ts';
import { fitMixed, type MixedFit } from './fit-mixed.ts';
import { fitPhase, type PhaseFit } from './fit-phase.ts';
import { type LoadPoint, type Phase, phaseOf } from './latency-terms.ts';

/** The latency lines of one device, decode and prefill fitted apart, mixed steps on top of decode. */
export interface LatencyFit {
  readonly decode: LatencyLine[];
  readonly prefill: LatencyLine[];
  /** Errors, condition numbers and residuals of the fits. */
  readonly phases: {
    readonly decode: PhaseFit;
    readonly prefill: PhaseFit;
    readonly mixed: MixedFit;
  };
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
  const isOf = (phase: Phase) => (_: unknown, index: number) =>
    phaseOf(points[index] as LoadPoint) === phase;
  const fitOf = (phase: Phase) => fitPhase(points.filter(isOf(phase)), seconds.filter(isOf(phase)));
  const decode = fitOf('decode');
  const prefill = fitOf('prefill');
  const mixed = fitMixed(
    points.filter(isOf('mixed')),
    seconds.filter(isOf('mixed')),
    decode.lines,
    prefill.lines,
  );
  return { decode: decode.lines, prefill: prefill.lines, phases: { decode, prefill, mixed } };
}
