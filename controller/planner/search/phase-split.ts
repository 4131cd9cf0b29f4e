/** Units of each phase spread over devices so that the slowest of them takes least: what ranks in lockstep want. */
import type { Counts, Problem, ProblemDevice } from '../problem.ts';
import type { StepLine } from '../step-lines.ts';

/** Unit prices of all devices, in their order: decode seconds (the highest over a device's lines) and bytes. */
export interface PhaseCosts {
  readonly problem: Problem;
  readonly constant: Float64Array;
  readonly perHeadGroup: Float64Array;
  readonly perGranule: Float64Array;
  readonly perRow: Float64Array;
  /** Beside the embedding, which a device in use holds whatever else it does; negative: it cannot be used. */
  readonly roomBytes: Float64Array;
  readonly headGroupBytes: number;
  readonly granuleBytes: number;
}

export function phaseCosts(problem: Problem): PhaseCosts {
  const { devices, footprint, granuleColumns, residentTokens } = problem;
  const highest = (term: keyof StepLine, scale = 1) =>
    Float64Array.from(
      devices,
      ({ decode }: ProblemDevice) => scale * Math.max(...decode.map((line) => line[term])),
    );
  return {
    problem,
    constant: highest('constant'),
    perHeadGroup: highest('perHeadGroup'),
    perGranule: highest('perColumn', granuleColumns),
    perRow: highest('perRow'),
    roomBytes: Float64Array.from(devices, ({ roomBytes }) => roomBytes - footprint.fixed),
    headGroupBytes: footprint.perHeadGroup + residentTokens * footprint.kvPerTokenHeadGroup,
    granuleBytes: footprint.perColumn * granuleColumns,
  };
}

/** Units that members take within some seconds. `begin` and `each` are by device, `caps` by place in `members`. */
interface Takers {
  readonly members: readonly number[];
  readonly begin: Float64Array | null;
  readonly each: Float64Array;
  readonly caps: Float64Array;
}

function unitsWithin({ members, begin, each, caps }: Takers, place: number, seconds: number) {
  const member = members[place] as number;
  const cap = caps[place] as number;
  const left = seconds - (begin === null ? 0 : (begin[member] as number));
  if (left < 0) return 0;
  const price = each[member] as number;
  return price === 0 ? cap : Math.min(cap, Math.floor(left / price));
}

/** The sum of `unitsWithin` over all members: the innermost loop of the search. */
function sumWithin({ members, begin, each, caps }: Takers, seconds: number): number {
  let sum = 0;
  for (let place = 0; place < members.length; place += 1) {
    const member = members[place] as number;
    const cap = caps[place] as number;
    const left = begin === null ? seconds : seconds - (begin[member] as number);
    if (left < 0) continue;
    const price = each[member] as number;
    sum += price === 0 ? cap : Math.min(cap, Math.floor(left / price));
  }
  return sum;
}

/** The bisection ends when so few units are left to hand out one by one. */
const singlesMax = 8;
const bisectionsMax = 60;

/** Seconds within which the takers take at most `units`, but nearly as many. */
function secondsFor(units: number, takers: Takers): number {
  const { members, begin, each, caps } = takers;
  let high = 0;
  for (let place = 0; place < members.length; place += 1) {
    const member = members[place] as number;
    const most = Math.min(units, caps[place] as number);
    if (most === 0) continue;
    const start = begin === null ? 0 : (begin[member] as number);
    high = Math.max(high, start + (each[member] as number) * most);
  }
  let low = 0;
  let above = sumWithin(takers, high);
  let below = 0;
  for (let step = 0; step < bisectionsMax && above - below > singlesMax; step += 1) {
    // The sum grows nearly in proportion where no cap binds; halving bounds the steps where some do.
    const portion = step % 2 === 0 ? (units - below) / (above - below) : 0.5;
    const middle = low + portion * (high - low);
    const sum = sumWithin(takers, middle);
    if (sum > units) [high, above] = [middle, sum];
    else [low, below] = [middle, sum];
  }
  return low;
}

/** `units` handed out with the least possible maximum of seconds, by device; null when the caps do not allow it. */
function spread(units: number, takers: Takers): number[] | null {
  const { members, begin, each, caps } = takers;
  let most = 0;
  for (const cap of caps) most += cap;
  if (most < units) return null;
  const seconds = secondsFor(units, takers);
  const counts = new Array<number>(each.length).fill(0);
  let left = units;
  for (let place = 0; place < members.length; place += 1) {
    const member = members[place] as number;
    const taken = Math.min(left, unitsWithin(takers, place, seconds));
    counts[member] = taken;
    left -= taken;
  }
  for (; left > 0; left -= 1) {
    let taker = -1;
    let least = Number.POSITIVE_INFINITY;
    for (let place = 0; place < members.length; place += 1) {
      const member = members[place] as number;
      const next = (counts[member] as number) + 1;
      if (next > (caps[place] as number)) continue;
      const after = (begin === null ? 0 : (begin[member] as number)) + next * (each[member] ?? 0);
      if (after < least) [taker, least] = [member, after];
    }
    counts[taker] = (counts[taker] as number) + 1;
  }
  return counts;
}

/** Units of `bytes` that fit each member beside what it holds. */
function capsBeside(
  { roomBytes }: PhaseCosts,
  members: readonly number[],
  bytes: number,
  units: number,
  heldBytes: (member: number) => number,
): Float64Array {
  const caps = new Float64Array(members.length);
  for (let place = 0; place < members.length; place += 1) {
    const member = members[place] as number;
    const fit = Math.floor(((roomBytes[member] as number) - heldBytes(member)) / bytes);
    caps[place] = Math.max(0, Math.min(units, fit));
  }
  return caps;
}

/** Vocabulary rows with the least possible maximum of their seconds, within the room that is left. Null when they do not fit. */
export function spreadRows(
  costs: PhaseCosts,
  members: readonly number[],
  heads: readonly number[],
  granules: readonly number[],
): number[] | null {
  const { vocabRows, footprint, ffnColumns } = costs.problem;
  const held = (member: number) =>
    (heads[member] as number) * costs.headGroupBytes +
    Math.min(ffnColumns * footprint.perColumn, (granules[member] as number) * costs.granuleBytes);
  const caps = capsBeside(costs, members, footprint.perRow, vocabRows, held);
  return spread(vocabRows, { members, begin: null, each: costs.perRow, caps });
}

/**
 * Heads and granules each with the least maximum of their own seconds: once with heads, once with granules the first to be given scarce memory. Empty
 * when not even one kind fits.
 */
export function phaseSplits(costs: PhaseCosts, members: readonly number[]): Counts[] {
  const { headGroups, granules } = costs.problem;
  const { constant, perHeadGroup, perGranule, headGroupBytes, granuleBytes } = costs;
  const headCaps = (held: (member: number) => number): Takers => {
    const caps = capsBeside(costs, members, headGroupBytes, headGroups, held);
    return { members, begin: constant, each: perHeadGroup, caps };
  };
  const granuleCaps = (held: (member: number) => number): Takers => {
    const caps = capsBeside(costs, members, granuleBytes, granules, held);
    return { members, begin: null, each: perGranule, caps };
  };
  const freeHeads = spread(
    headGroups,
    headCaps(() => 0),
  );
  const freeGranules = spread(
    granules,
    granuleCaps(() => 0),
  );
  if (freeHeads === null || freeGranules === null) return [];
  const besideHeads = granuleCaps((member) => (freeHeads[member] as number) * headGroupBytes);
  const besideGranules = headCaps((member) => (freeGranules[member] as number) * granuleBytes);
  const headsFirst = withRows(
    costs,
    members,
    freeHeads,
    within(freeGranules, granules, besideHeads),
  );
  const headsLeft = within(freeHeads, headGroups, besideGranules);
  // Where there is room for both, the order does not matter.
  const same = headsLeft === freeHeads && headsFirst?.granules === freeGranules;
  const granulesFirst = same ? headsFirst : withRows(costs, members, headsLeft, freeGranules);
  return [headsFirst, granulesFirst].filter((split) => split !== null);
}

/** What was spread where nothing else took room, if it is within the takers' caps; else spread within them. */
function within(free: number[], units: number, takers: Takers): number[] | null {
  const { members, caps } = takers;
  const fits = members.every(
    (member, place) => (free[member] as number) <= (caps[place] as number),
  );
  return fits ? free : spread(units, takers);
}

function withRows(
  costs: PhaseCosts,
  members: readonly number[],
  headGroups: number[] | null,
  granules: number[] | null,
): Counts | null {
  if (headGroups === null || granules === null) return null;
  const vocabRows = spreadRows(costs, members, headGroups, granules);
  return vocabRows === null ? null : { headGroups, granules, vocabRows };
}
