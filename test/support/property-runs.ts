const factor = Number(process.env['HELS_PROPERTY_RUNS_FACTOR'] ?? 1);

/** Runs of a property: the number it names, times HELS_PROPERTY_RUNS_FACTOR for what is too long for every change. */
export function propertyRuns(runs: number): number {
  return runs * factor;
}

/** Of a test of such a property: as much longer as it has more runs. */
export function propertyDeadlineMs(deadlineMs: number): number {
  return deadlineMs * factor;
}
