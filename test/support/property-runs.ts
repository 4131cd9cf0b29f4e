/** Runs of a property: the number it names, times HELS_PROPERTY_RUNS_FACTOR for what is too long for every change. */
export function propertyRuns(runs: number): number {
  return runs * Number(process.env['HELS_PROPERTY_RUNS_FACTOR'] ?? 1);
}
