import type { Counts, Problem } from '../problem.ts';
import { proportionalCounts } from './proportional.ts';

/** exo's and llama.cpp's split: in proportion to the memory that is free for weights and KV. */
export function memorySplit(problem: Problem): Counts {
  return proportionalCounts(
    problem,
    problem.devices.map((device) => device.roomBytes),
  );
}
