import { better, type Candidate, candidateOf, decodeLinkSeconds } from '../evaluate.ts';
import { GroupStep, phasesOf } from '../lockstep.ts';
import {
  type Counts,
  formulaProblem,
  type Problem,
  type ProblemDevice,
  type Share,
} from '../problem.ts';
import { allSetsMax, trySets } from '../search/device-sets.ts';
import { polish, repair } from '../search/lockstep-repair.ts';
import { phaseCosts, phaseSplits } from '../search/phase-split.ts';
import { isUsed } from '../share-bytes.ts';
import { bestBaseline, helsSplit, type Split } from './hels.ts';

/** Splits that are repaired, the fastest first: of few devices, and of many. */
const startsMax = 16;
const repairedOfManyMax = 2;

interface Start {
  readonly counts: Counts;
  readonly seconds: number;
}

/** Decode seconds of a split over `members` in lockstep. */
function secondsOf(problem: Problem, members: readonly number[], counts: Counts): number {
  const shareOf = (index: number): Share => ({
    headGroups: counts.headGroups[index] as number,
    ffnColumns: (counts.granules[index] as number) * problem.granuleColumns,
    vocabRows: counts.vocabRows[index] as number,
  });
  let participants = 0;
  for (const index of members) participants += Number(isUsed(shareOf(index)));
  const step = new GroupStep();
  for (const index of members) {
    const share = shareOf(index);
    if (!isUsed(share)) continue;
    const device = problem.devices[index] as ProblemDevice;
    step.add(phasesOf(device.decode, share), decodeLinkSeconds(problem, device, participants));
  }
  return step.seconds(true);
}

/** Keeps the fastest few. */
class Shortlist {
  readonly starts: Start[] = [];
  tried = 0;

  add(start: Start): void {
    this.tried += 1;
    let place = this.starts.length;
    while (place > 0 && (this.starts[place - 1] as Start).seconds > start.seconds) place -= 1;
    if (place < startsMax) this.starts.splice(place, 0, start);
    if (this.starts.length > startsMax) this.starts.pop();
  }
}

/** Where KV may lie on any rank: whether the members together have room for it beside the weights. */
function holdsSharedKv(
  { devices, footprint, remote, ...model }: Problem,
  members: readonly number[],
) {
  if (remote === null) return true;
  let room = 0;
  for (const index of members) room += (devices[index]?.roomBytes ?? 0) - footprint.fixed;
  const { headGroups, ffnColumns, vocabRows } = model;
  const kv = remote.residentTokens * footprint.kvPerTokenHeadGroup * headGroups;
  const weights =
    footprint.perHeadGroup * headGroups +
    footprint.perColumn * ffnColumns +
    footprint.perRow * vocabRows;
  return weights + kv <= room;
}

/** Of sets of the devices, each kind of unit spread to the least maximum of its own seconds. */
function splitsByPhase(problem: Problem, shortlist: Shortlist): void {
  const costs = phaseCosts(problem);
  trySets(problem, costs, (members) => {
    let least = Number.POSITIVE_INFINITY;
    if (!holdsSharedKv(problem, members)) return least;
    for (const counts of phaseSplits(costs, members)) {
      const seconds = secondsOf(problem, members, counts);
      least = Math.min(least, seconds);
      shortlist.add({ counts, seconds });
    }
    return least;
  });
}

/**
 * The split for ranks that meet after every phase: of sets of the devices, heads, columns and rows each spread to the least maximum of
 * their own seconds (exact for each phase while memory does not bind), beside the baselines and, of few devices or where nothing else
 * fits, the split for ranks that meet once a step, and a `known` one; then repaired by single moves. Null when no feasible split was found.
 */
export function lockstepSplit(problem: Problem, known: Candidate | null = null): Split {
  const shortlist = new Shortlist();
  splitsByPhase(problem, shortlist);
  const starts = shortlist.starts.map(({ counts }) => candidateOf(problem, counts));
  const baseline = bestBaseline(problem);
  if (baseline !== null) starts.push(baseline);
  if (known !== null) starts.push(known);
  let once: Split | null = null;
  const few = problem.devices.length <= allSetsMax;
  if (few || starts.length === 0) {
    once = helsSplit(formulaProblem(problem));
    if (once.best !== null) starts.push(candidateOf(problem, once.best.counts));
  }
  const costs = phaseCosts(problem);
  const repaired = starts
    .filter(({ evaluation }) => evaluation.feasible)
    .sort((left, right) => left.evaluation.decodeSeconds - right.evaluation.decodeSeconds)
    .slice(0, few ? startsMax : repairedOfManyMax)
    .map((start) => repair(costs, start))
    .reduce<Candidate | null>(better, null);
  const best = repaired === null ? null : polish(costs, repaired);
  // Without a split for ranks that meet once a step there is none at all: what fits does not depend on when they meet.
  return {
    best,
    proven: best === null && once?.proven === true,
    iterations: shortlist.tried + (once?.iterations ?? 0),
  };
}
