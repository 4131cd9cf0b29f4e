import type { RestoreChoice } from './restore-choice.ts';

export interface SchedulerLimits {
  kvBlocks: number;
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

interface ParkingLimits {
  /** Parked addresses, after the runnable ones. */
  blocks: number;
  /** Blocks that one step may move: they hold it up. */
  movesPerStepMax?: number;
  choice?: RestoreChoice;
}
