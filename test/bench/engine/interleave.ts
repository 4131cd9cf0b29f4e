/** Measurements in turn, never two at once, so that what the machine does meanwhile meets all of them alike. */
import { median } from '../statistics.ts';

/** Seconds of something: one step, or the mean over `steps` of them. */
export type Measure = (steps: number) => Promise<number>;

export const repetitions = 5;
/** Of a decode step at batch 1, which the host's bandwidth alone decides: it changes from one second to the next. */
export const repetitionsOfOne = 25;
/** A measurement covers as many steps as fit, so that starting and stopping do not count. */
const measurementSeconds = 0.2;
const stepsMax = 32;
/** A contender's threads may spin for a moment after its last step. */
const pauseMs = 20;

/** Medians, in the order given, of so many rounds after one that warms up. */
export async function interleave(
  measures: readonly Measure[],
  rounds = repetitions,
): Promise<number[]> {
  const steps: number[] = [];
  for (const measure of measures) {
    const seconds = await measure(1);
    steps.push(Math.min(stepsMax, Math.max(1, Math.round(measurementSeconds / seconds))));
  }
  const results: number[][] = measures.map(() => []);
  for (let round = 0; round < rounds; round += 1) {
    for (const [index, measure] of measures.entries()) {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      results[index]?.push(await measure(steps[index] ?? 1));
    }
  }
  return results.map(median);
}
