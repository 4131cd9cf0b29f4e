/** What a step's moves, replay and exchanges about KV on loan should take, by the lines and links of the group. Pure. */
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { groupSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { remoteKvOf } from '../planner/remote-workload.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { plannedRanksOf } from './plan-report.ts';
import { type MeasuredCopies, restoreCostsOf } from './restore-costs.ts';
import type { TwoTerms } from './two-term-fit.ts';

export interface KvPathCosts {
  /** Moving so many blocks, away or back, on the slowest rank, beside one; 0: copying was not measured. */
  moveSeconds(blocks: number): TwoTerms;
  /** The same, from where they are on loan. */
  recallSeconds(blocks: number): TwoTerms;
  /** A whole step, collectives included. */
  stepSeconds(load: StepLoad): number;
  /** One rank's exchanges of so many bytes, two exchanges a layer: beginning them, and what the bytes take. */
  exchangeSeconds(rank: number, bytes: number): TwoTerms;
}

const moving = (blocks: number, secondsPerBlock = 0): TwoTerms => ({
  begun: secondsPerBlock,
  carried: blocks * secondsPerBlock,
});

export function kvPathCostsOf(
  group: Pick<LoadedGroup, 'shardPlan' | 'input'> & MeasuredCopies,
): KvPathCosts {
  const { input, shardPlan } = group;
  const restore = restoreCostsOf(group);
  const ranks = plannedRanksOf(shardPlan);
  const shares = plannedShares(input, { ranks });
  const workload = { ...input.workload, allowRemoteKv: true };
  const remote = remoteKvOf({ ...input, workload });
  const deviceOf = ranks.map((rank) => input.devices.findIndex(({ id }) => id === rank.device));
  return {
    moveSeconds: (blocks) => moving(blocks, restore?.moveSecondsPerBlock),
    recallSeconds: (blocks) => moving(blocks, restore?.recallSecondsPerBlock),
    stepSeconds(load) {
      const used = rankSeconds(input, shares, load).filter((rank) => rank !== null);
      return groupSeconds(used, input.objective === 'lockstep');
    },
    exchangeSeconds(rank, bytes) {
      const device = deviceOf[rank] ?? -1;
      if (bytes === 0 || remote === null) return { begun: 0, carried: 0 };
      const begun = remote.exchangeSeconds[device] ?? 0;
      return { begun, carried: bytes * (remote.secondsPerByte[device] ?? 0) };
    },
  };
}
