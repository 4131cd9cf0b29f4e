import { apportion } from '../apportion.ts';
import { type Candidate, candidateOf, fitsMemory } from '../evaluate.ts';
import type { Problem, Share } from '../problem.ts';

/** Units that follow the heads: borders at the nearest whole unit of the heads' running share. */
function followHeads(total: number, heads: readonly number[], headsTotal: number): number[] {
  let before = 0;
  let border = 0;
  return heads.map((count) => {
    before += count;
    const next = Math.round((total * before) / headsTotal);
    const units = next - border;
    border = next;
    return units;
  });
}

/** FFN granules and vocabulary rows follow the heads: the source splits heads only. */
function withHeads(problem: Problem, headGroups: readonly number[]): Candidate {
  return candidateOf(problem, {
    headGroups,
    granules: followHeads(problem.granules, headGroups, problem.headGroups),
    vocabRows: followHeads(problem.vocabRows, headGroups, problem.headGroups),
  });
}

/** The fastest device that is not excluded; -1 when none is left. */
function fastestOf(deviceSeconds: readonly number[], excluded: ReadonlySet<number>): number {
  let fastest = -1;
  for (const [index, seconds] of deviceSeconds.entries()) {
    if (excluded.has(index)) continue;
    if (fastest < 0 || seconds < (deviceSeconds[fastest] as number)) fastest = index;
  }
  return fastest;
}

/** The move from the slowest device to the fastest one that has room for it; null when none has. */
function moveToFastest(problem: Problem, current: Candidate): Candidate | null {
  const { deviceSeconds, decodeSeconds, feasible } = current.evaluation;
  const from = deviceSeconds.indexOf(decodeSeconds);
  const heads = current.counts.headGroups;
  if ((heads[from] ?? 0) === 0) return null;
  const excluded = new Set([from]);
  for (;;) {
    const to = fastestOf(deviceSeconds, excluded);
    if (to < 0) return null;
    const moved = heads.with(from, (heads[from] as number) - 1).with(to, (heads[to] as number) + 1);
    const next = withHeads(problem, moved);
    const device = problem.devices[to] as Problem['devices'][number];
    const fits = fitsMemory(problem, device, next.evaluation.shares[to] as Share);
    if (fits && (next.evaluation.feasible || !feasible)) return next;
    excluded.add(to);
  }
}

/** Devices that take as long as the slowest. */
const slowestCount = ({ evaluation }: Candidate): number =>
  evaluation.deviceSeconds.filter((seconds) => seconds === evaluation.decodeSeconds).length;

/** The step falls, or as many seconds are left to fewer devices: of two equal slow devices each must give before the step can fall. */
function improves(next: Candidate, current: Candidate): boolean {
  const difference = next.evaluation.decodeSeconds - current.evaluation.decodeSeconds;
  if (difference !== 0) return difference < 0;
  return slowestCount(next) < slowestCount(current);
}

/**
 * The source's loop (design section 1): KV shares, and with them the first heads, from memory; then heads move one by one from the
 * slowest device to the fastest, and the loop stops when the step time no longer falls.
 */
export function stepwiseSplit(problem: Problem): { candidate: Candidate; iterations: number } {
  const room = problem.devices.map((device) => device.roomBytes);
  let candidate = withHeads(problem, apportion(problem.headGroups, room));
  let iterations = 1;
  for (; iterations <= problem.headGroups * problem.devices.length; iterations += 1) {
    const next = moveToFastest(problem, candidate);
    if (next === null || !improves(next, candidate)) break;
    candidate = next;
  }
  return { candidate, iterations };
}
