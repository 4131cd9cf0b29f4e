import { better, type Candidate, candidateOf } from '../evaluate.ts';
import { type Phases, phasesOf } from '../lockstep.ts';
import type { Counts, Problem, ProblemDevice, Share } from '../problem.ts';
import { isUsed } from '../share-bytes.ts';
import { type PhaseCosts, spreadRows } from './phase-split.ts';

/** Devices up to which three units move together at last, up to which a head and a granule do, and up to which any device may give. */
const tripleMovesMax = 5;
const pairMovesMax = 6;
const anyGiverMax = 8;
/** Rounds of one repair times devices, and splits that a round makes in full. */
const roundsMax = 2_000;
const triesMax = 400;

/** Units that leave a device and come to another. */
interface Move {
  readonly from: number;
  readonly to: number;
  readonly headGroups: number;
  readonly granules: number;
}

/** The seconds of each phase by device, and the most over all but a few. */
class PhaseMaxima {
  readonly #phases: Phases[];
  /** Devices by each phase, slowest first, as many as one move can change and one more. */
  readonly #slowest: Record<keyof Phases, number[]>;

  constructor(phases: Phases[]) {
    this.#phases = phases;
    const all = [...phases.keys()];
    const slowest = (phase: keyof Phases): number[] => {
      const top: number[] = [];
      for (const index of all) {
        let place = top.length;
        while (place > 0 && this.of(top[place - 1] as number, phase) < this.of(index, phase)) {
          place -= 1;
        }
        if (place < 5) top.splice(place, 0, index);
        if (top.length > 5) top.pop();
      }
      return top;
    };
    this.#slowest = {
      attention: slowest('attention'),
      mlp: slowest('mlp'),
      output: slowest('output'),
    };
  }

  of(device: number, phase: keyof Phases): number {
    return (this.#phases[device] as Phases)[phase];
  }

  slowest(phase: keyof Phases): number {
    return this.#slowest[phase][0] as number;
  }

  /** Slowest of the devices that are not in `changed`, at most four. */
  without(changed: readonly number[], phase: keyof Phases): number {
    for (const index of this.#slowest[phase]) {
      if (!changed.includes(index)) return this.of(index, phase);
    }
    return 0;
  }
}

/** One split under repair: what a move would make of it, to be told cheaply. */
class Workpiece {
  readonly #costs: PhaseCosts;
  readonly #problem: Problem;
  readonly current: Candidate;
  readonly #maxima: PhaseMaxima;
  /** Output seconds if the rows were spread over all devices, memory aside. */
  readonly #outputFloor: number;
  readonly #link: number;

  constructor(costs: PhaseCosts, current: Candidate) {
    this.#costs = costs;
    this.#problem = costs.problem;
    this.current = current;
    const { shares, decodeSeconds } = current.evaluation;
    const none = { attention: 0, mlp: 0, output: 0 };
    const phases = shares.map((share, index) =>
      isUsed(share)
        ? phasesOf((this.#problem.devices[index] as ProblemDevice).decode, share)
        : none,
    );
    this.#maxima = new PhaseMaxima(phases);
    let perSecond = 0;
    for (const each of costs.perRow) perSecond += 1 / each;
    this.#outputFloor = this.#problem.vocabRows / perSecond;
    const most = (phase: keyof Phases) => this.#maxima.without([], phase);
    this.#link = Math.max(0, decodeSeconds - most('attention') - most('mlp') - most('output'));
  }

  /** Single moves that may help. Of many devices only the slowest of a phase gives. */
  moves(unit: 'headGroups' | 'granules'): Move[] {
    const counts = this.current.counts[unit];
    const all = [...counts.keys()];
    const phase = unit === 'headGroups' ? 'attention' : 'mlp';
    const givers = all.length > anyGiverMax ? [this.#maxima.slowest(phase)] : all;
    const [headGroups, granules] = unit === 'headGroups' ? [1, 0] : [0, 1];
    const moves: Move[] = [];
    for (const from of givers) {
      if ((counts[from] ?? 0) === 0) continue;
      for (const to of all) if (to !== from) moves.push({ from, to, headGroups, granules });
    }
    return moves;
  }

  /** A lower bound of the step after the moves, the rows spread anew; of several lines to a device an estimate. */
  secondsAfter(moves: readonly Move[]): number {
    const changed: number[] = [];
    for (const { from, to } of moves) {
      if (!changed.includes(from)) changed.push(from);
      if (!changed.includes(to)) changed.push(to);
    }
    let attention = this.#maxima.without(changed, 'attention');
    let mlp = this.#maxima.without(changed, 'mlp');
    let link = this.#link;
    for (const device of changed) {
      const share = this.#shareAfter(device, moves);
      if (share === null) return Number.POSITIVE_INFINITY;
      // A device that is left with nothing pays, and makes others pay, no link.
      if (share.headGroups + share.ffnColumns === 0) link = 0;
      else {
        const phases = phasesOf((this.#problem.devices[device] as ProblemDevice).decode, share);
        attention = Math.max(attention, phases.attention);
        mlp = Math.max(mlp, phases.mlp);
      }
    }
    return attention + mlp + this.#outputFloor + link;
  }

  /** Null when the device would have to give what it has not, or has no room for its heads and granules. */
  #shareAfter(device: number, moves: readonly Move[]): Share | null {
    const { counts, evaluation } = this.current;
    let headGroups = counts.headGroups[device] as number;
    let granules = counts.granules[device] as number;
    for (const move of moves) {
      const sign = Number(move.to === device) - Number(move.from === device);
      headGroups += sign * move.headGroups;
      granules += sign * move.granules;
    }
    if (headGroups < 0 || granules < 0) return null;
    const { granuleColumns, ffnColumns } = this.#problem;
    const columns = Math.min(ffnColumns, granules * granuleColumns);
    const bytes =
      headGroups * this.#costs.headGroupBytes + columns * this.#problem.footprint.perColumn;
    if (bytes > (this.#costs.roomBytes[device] as number)) return null;
    const { vocabRows } = evaluation.shares[device] as Share;
    return { headGroups, ffnColumns: columns, vocabRows };
  }

  /** The split after the moves, its rows spread anew over the devices in use; null when they do not fit. */
  after(moves: readonly Move[]): Candidate | null {
    const { counts } = this.current;
    const headGroups = [...counts.headGroups];
    const granules = [...counts.granules];
    for (const move of moves) {
      for (const [device, sign] of [
        [move.from, -1],
        [move.to, 1],
      ] as const) {
        headGroups[device] = (headGroups[device] as number) + sign * move.headGroups;
        granules[device] = (granules[device] as number) + sign * move.granules;
      }
    }
    const working = (index: number) => (headGroups[index] ?? 0) + (granules[index] ?? 0) > 0;
    const all = [...headGroups.keys()];
    const members = all.filter((index) => working(index) || (counts.vocabRows[index] ?? 0) > 0);
    // Rows alone are seldom worth a device and its link: without it they go to those that work anyway.
    const sets = members.every(working) ? [members] : [members.filter(working), members];
    let best: Candidate | null = null;
    for (const set of sets) {
      const vocabRows = spreadRows(this.#costs, set, headGroups, granules);
      const split: Counts | null = vocabRows && { headGroups, granules, vocabRows };
      if (split !== null) best = better(best, candidateOf(this.#problem, split));
    }
    return best;
  }

  /** The first moves of up to `together` units that make the step shorter, the most promising ones first; null when none do. */
  improved(together: 2 | 3): Candidate | null {
    const singles = [...this.moves('headGroups'), ...this.moves('granules')];
    const steps: Move[][] = singles.map((move) => [move]);
    const devices = this.current.counts.headGroups.length;
    // Where memory binds, a head often makes room for a granule or the other way round.
    if (devices <= pairMovesMax) steps.push(...pairsOf(singles));
    if (together === 3) {
      for (const pair of pairsOf(singles))
        for (const third of singles) steps.push([...pair, third]);
    }
    const { decodeSeconds } = this.current.evaluation;
    const promising = steps
      .map((moves) => ({ moves, seconds: this.secondsAfter(moves) }))
      .filter(({ seconds }) => seconds < decodeSeconds)
      .sort((left, right) => left.seconds - right.seconds);
    const tries = Math.ceil(triesMax / devices);
    for (const { moves } of promising.slice(0, tries)) {
      const next = this.after(moves);
      if (next !== null && better(this.current, next) === next) return next;
    }
    return null;
  }
}

/** A head and a granule. */
function pairsOf(singles: readonly Move[]): Move[][] {
  const heads = singles.filter(({ headGroups }) => headGroups > 0);
  const columns = singles.filter(({ granules }) => granules > 0);
  return heads.flatMap((head) => columns.map((column) => [head, column]));
}

/** Moves single units, or a head and a granule together, while the step gets shorter. */
export function repair(costs: PhaseCosts, start: Candidate): Candidate {
  return improve(costs, start, 2);
}

/** The same of what repairs have found, of few devices with three units at a time, one of them of the other kind. */
export function polish(costs: PhaseCosts, start: Candidate): Candidate {
  const { length } = start.counts.headGroups;
  return length <= tripleMovesMax ? improve(costs, start, 3) : start;
}

function improve(costs: PhaseCosts, start: Candidate, together: 2 | 3): Candidate {
  let best = start;
  const rounds = Math.ceil(roundsMax / start.counts.headGroups.length);
  for (let round = 0; round < rounds; round += 1) {
    const next = new Workpiece(costs, best).improved(together);
    if (next === null) break;
    best = next;
  }
  return best;
}
