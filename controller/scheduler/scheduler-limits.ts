import { movesAlways, type RestoreChoice } from './restore-choice.ts';

/** However quick a move is: each is a part of the step's message, too. */
export const movesPerStepMost = 64;

export interface SchedulerLimits {
  kvBlocks: number;
  /** Runnable addresses below lie on every rank's own device; absent: all do. The others cost an exchange in each step that names them. */
  localBlocks?: number;
  /** Blocks that one step may bring home from there, where there is room again; absent: none. */
  recallsPerStepMax?: number;
  kvBlockTokens: number;
  stepTokensMax: number;
  sequencesMax: number;
  /** Positions of one sequence. */
  contextTokensMax: number;
  /** Requests that may wait; one more is refused as overloaded. */
  waitingMax: number;
  /** Absent: KV that has to make room is dropped. */
  parking?: ParkingLimits;
  /** A sequence that gives way loses all of its KV at once; absent: only what room is needed for. */
  replaysWhole?: boolean;
  /** Room for all of a sequence, in multiples of so many tokens, is set aside when it starts: nobody gives way. Absent: none is. */
  reserveTokens?: number;
}

export interface ParkingLimits {
  /** Parked addresses, after the runnable ones. */
  blocks: number;
  /** Blocks that one step may move: they hold it up. */
  movesPerStepMax?: number;
  choice?: RestoreChoice;
}

/** The limits of parking, the absent ones filled in. Throws for limits under which the scheduler would come to a stop. */
export function checkedParking(limits: SchedulerLimits): Required<ParkingLimits> {
  if (limits.sequencesMax > limits.stepTokensMax) {
    throw new Error('sequencesMax must not exceed stepTokensMax: each running sequence may decode');
  }
  const {
    blocks = 0,
    movesPerStepMax = movesPerStepMost,
    choice = movesAlways,
  } = limits.parking ?? {};
  if (!(movesPerStepMax >= 1)) {
    throw new Error(`movesPerStepMax is ${movesPerStepMax}; nothing would ever come back`);
  }
  return { blocks, movesPerStepMax, choice };
}
