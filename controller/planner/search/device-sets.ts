import type { Problem, ProblemDevice } from '../problem.ts';
import type { PhaseCosts } from './phase-split.ts';

/** Devices up to which every set is tried. */
export const allSetsMax = 8;
/** Sizes that are tried grow by this factor, at least by one. */
const sizeGrowth = 1.2;
/** Devices up to which one joins or leaves (each round tries as many sets), and up to which one takes another's place (a quarter of the square). */
const joiningMax = 64;
const replacingMax = 20;
/** Of many devices those of the fastest links: all, half of them, and so on. */
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
  const limits = linkLimits(links).filter((limit) => limit < slowestLink);
  const within = (limit: number) =>
    fastest.filter((index) => linkOf(problem.devices[index] as ProblemDevice) <= limit);
  return [fastest, ...[...new Set(limits)].map(within)];
}

/** The group's link is its slowest one: what the others must not exceed. `links` ascend. */
function linkLimits(links: readonly number[]): number[] {
  if (links.length <= replacingMax) return [...links];
  return Array.from(
    { length: linkHalvings },
    (_, halving) => links[Math.ceil(links.length / 2 ** (halving + 1)) - 1] as number,
  );
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
 * those between the neighbours of the best; at last the best of these, and the best single device, with one device less, more or exchanged. `trial` returns the seconds of what it made of a set; Infinity for nothing.
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
  const lists = orders(problem, costs);
  const fastestFirst = lists[0] as readonly number[];
  const best = new Best(trial);
  for (const order of lists) {
    const beginning = (size: number) => order.slice(0, size);
    const tried = new Map(sizes(order.length).map((size) => [size, best.try(beginning(size))]));
    refine(tried, (size) => best.try(beginning(size)));
  }
  if (fastestFirst.length > joiningMax) return;
  const single = new Best(trial);
  for (const index of fastestFirst) single.try([index]);
  for (const start of [best, single]) exchange(start, fastestFirst);
}

/** The best set tried, and its seconds. */
class Best {
  members: readonly number[] = [];
  seconds = Number.POSITIVE_INFINITY;
  readonly #trial: (members: readonly number[]) => number;

  constructor(trial: (members: readonly number[]) => number) {
    this.#trial = trial;
  }

  try(members: readonly number[]): number {
    const seconds = this.#trial(members);
    if (seconds < this.seconds) [this.members, this.seconds] = [members, seconds];
    return seconds;
  }
}

/** One device less, more or, of not too many, in place of another, as long as that helps. Members stay in the order of `all`. */
function exchange(best: Best, all: readonly number[]): void {
  const flipped = (one: number, other: number) => {
    const members = new Set(best.members);
    return all.filter((each) => members.has(each) !== (each === one || each === other));
  };
  const tryFlip = (one: number, other: number) => {
    const next = flipped(one, other);
    if (next.length > 0) best.try(next);
  };
  for (let before = Number.POSITIVE_INFINITY; best.seconds < before; ) {
    before = best.seconds;
    for (const one of all) tryFlip(one, one);
    if (best.seconds < before || all.length > replacingMax) continue;
    const inside = best.members;
    const outside = all.filter((each) => !inside.includes(each));
    for (const one of inside) for (const other of outside) tryFlip(one, other);
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
