import type { Problem, ProblemDevice } from '../problem.ts';
import type { PhaseCosts } from './phase-split.ts';

/** Devices up to which every set is tried. */
export const allSetsMax = 8;
/** Sizes that are tried grow by this factor, at least by one. */
const sizeGrowth = 1.2;
/** The devices of the fastest links: all, half of them, and so on. */
const linkHalvings = 3;

/** Every set of the devices but the empty one. */
function* allSets(devices: number): Generator<readonly number[]> {
  const all = Array.from({ length: devices }, (_, index) => index);
  for (let mask = 1; mask < 2 ** devices; mask += 1) {
    yield all.filter((index) => (mask >> index) & 1);
  }
}

/** Devices by the seconds of the whole model, fastest first. */
function bySpeed({ problem, perHeadGroup, perGranule }: PhaseCosts): number[] {
  const { headGroups, granules } = problem;
  const seconds = perHeadGroup.map(
    (each, index) => each * headGroups + (perGranule[index] as number) * granules,
  );
  return [...problem.devices.keys()].sort(
    (a, b) => (seconds[a] as number) - (seconds[b] as number),
  );
}

const linkOf = ({ decodeLink, decodeRing }: ProblemDevice) => decodeLink + decodeRing;

/** Lists whose beginnings are worth trying: all devices by speed, and by speed those of the fastest links. */
function orders(problem: Problem, costs: PhaseCosts): number[][] {
  const fastest = bySpeed(costs);
  const links = problem.devices.map(linkOf).sort((a, b) => a - b);
  const slowestLink = links.at(-1) as number;
  const lists = [fastest];
  for (let halving = 1; halving <= linkHalvings; halving += 1) {
    const limit = links[Math.ceil(links.length / 2 ** halving) - 1] as number;
    if (limit >= slowestLink) break;
    lists.push(fastest.filter((index) => linkOf(problem.devices[index] as ProblemDevice) <= limit));
  }
  return lists;
}

function sizes(most: number): number[] {
  const list: number[] = [];
  for (let size = 1; size < most; size = Math.max(size + 1, Math.floor(size * sizeGrowth))) {
    list.push(size);
  }
  return [...list, most];
}

/**
 * Tries sets of devices that may make a plan: all of them where there are few, else the fastest k, for sizes k a fifth apart and then for
 * those between the neighbours of the best. `trial` returns the seconds of what it made of a set; Infinity for nothing.
 */
export function trySets(
  problem: Problem,
  costs: PhaseCosts,
  trial: (members: readonly number[]) => number,
): void {
  if (problem.devices.length <= allSetsMax) {
    for (const members of allSets(problem.devices.length)) trial(members);
    return;
  }
  for (const order of orders(problem, costs)) {
    const tried = new Map(
      sizes(order.length).map((size) => [size, trial(order.slice(0, size))] as const),
    );
    refine(tried, (size) => trial(order.slice(0, size)));
  }
}

/** Halves the gaps beside the best size until there are none. */
function refine(tried: Map<number, number>, trial: (size: number) => number): void {
  for (;;) {
    const known = [...tried.keys()].sort((a, b) => a - b);
    const best = known.reduce((left, right) =>
      (tried.get(right) as number) < (tried.get(left) as number) ? right : left,
    );
    const place = known.indexOf(best);
    const middles = [known[place - 1], known[place + 1]]
      .filter((size) => size !== undefined && Math.abs(size - best) > 1)
      .map((size) => (best + (size as number)) >> 1);
    if (middles.length === 0) return;
    for (const size of middles) tried.set(size, trial(size));
  }
}
