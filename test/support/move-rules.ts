/** What moves of KV must keep to, whatever the scheduler decides. */
import type { SchedulerLimits, StepPlan } from '../../controller/scheduler/scheduler.ts';

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** All addresses that a step names. */
function namesOf({ moves, sequences }: StepPlan): Set<number> {
  const tables = sequences.flatMap(({ blockTable }) => blockTable);
  return new Set([...tables, ...moves.flatMap(({ from, to }) => [from, to])]);
}

/**
 * `earlier`: the steps under way. No address twice in a step's moves; each leads out of the runnable ones or back, or, where no other does
 * in the step, home from a loan; nothing is moved to or
 * computed in an address that a step under way still names, unless for the sequence that has its KV there.
 */
export function checkMoves(
  plan: StepPlan,
  earlier: readonly StepPlan[],
  limits: SchedulerLimits,
): void {
  const { kvBlocks, localBlocks = kvBlocks, kvBlockTokens, parking } = limits;
  const addresses = kvBlocks + (parking?.blocks ?? 0);
  const { moves, sequences, recalledBlocks } = plan;
  check(recalledBlocks === 0 || recalledBlocks === moves.length, 'moves beside recalls');
  const named = moves.flatMap(({ from, to }) => [from, to]);
  check(new Set(named).size === named.length, 'an address is moved twice in a step');
  const most = recalledBlocks > 0 ? limits.recallsPerStepMax : parking?.movesPerStepMax;
  check(moves.length <= (most ?? 64), `${moves.length} moves in a step`);
  const sources = new Set(moves.map(({ from }) => from));
  const busy = earlier.map(namesOf);
  for (const { from, to } of moves) {
    check(Math.min(from, to) >= 0 && Math.max(from, to) < addresses, `${from} -> ${to} leads out`);
    const comesHome = from < kvBlocks && from >= localBlocks && to < localBlocks;
    const comesOrGoes = recalledBlocks > 0 ? comesHome : from < kvBlocks !== to < kvBlocks;
    check(comesOrGoes, `${from} -> ${to} neither parks nor brings back`);
    check(!busy.some((names) => names.has(to)), `${from} -> ${to} while ${to} is named`);
  }
  const movedAway = new Set(earlier.flatMap((step) => step.moves.map(({ from }) => from)));
  for (const { blockTable, startPosition } of sequences) {
    check(
      blockTable.every((block) => block < kvBlocks),
      'a step runs from a parked address',
    );
    for (const block of blockTable.slice(Math.floor(startPosition / kvBlockTokens))) {
      check(!sources.has(block) && !movedAway.has(block), `block ${block} is written as it moves`);
    }
  }
}
