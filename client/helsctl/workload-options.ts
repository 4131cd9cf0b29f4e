/** --sequences, --context and --prefill-chunk of the commands that plan for what is, or is to be, served. */
import { type WorkloadField, workloadMax } from '../../proto/domain/workload.ts';
import { parseWholeNumber } from './values.ts';

/** As commander gives them. */
export interface WorkloadOptions {
  sequences?: string;
  context?: string;
  prefillChunk?: string;
}

const options = [
  ['sequences', '--sequences', 'sequences'],
  ['context', '--context', 'contextTokens'],
  ['prefillChunk', '--prefill-chunk', 'prefillChunk'],
] as const;

/** What is given and nothing else; throws usage naming the option, the value and the range. */
export function parseWorkload(given: WorkloadOptions): Partial<Record<WorkloadField, number>> {
  const values = options.flatMap(([name, option, field]): [WorkloadField, number][] => {
    const text = given[name];
    return text === undefined
      ? []
      : [[field, parseWholeNumber(text, option, 1, workloadMax[field])]];
  });
  return Object.fromEntries(values);
}
