/** Where the KV of a plan lies: runnable blocks, loans, parked blocks, and what each rank's device and host memory hold of them. Pure. */
import { isGpuLoan, type KvLoan } from '../../proto/domain/kv-residency.ts';
import { kvBytesPerToken, type ModelSpec } from '../../proto/domain/model-spec.ts';
import type { PlannedRank, PlanOutput } from '../../proto/domain/plan.ts';
import { kvBlocksOf, usableBlocks } from '../planner/kv-blocks.ts';
import { type LoanPlan, largestLoans } from '../planner/kv-loans.ts';
import { placeParked } from '../planner/kv-placement.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';
import type { KvRoom } from './require-room.ts';

/** Of one rank. */
interface KvHome {
  /** Addresses below lie on its device. */
  readonly deviceBlocks: number;
  /** On its device, for its own heads and for others'. */
  readonly deviceBytes: number;
  /** Parked blocks of its own heads in host memory. */
  readonly hostBytes: number;
}

export interface KvHomes {
  /** Of the ranks with heads. */
  readonly rooms: readonly KvRoom[];
  readonly kvBlocks: number;
  readonly kvParkedBlocks: number;
  readonly loans: readonly KvLoan[];
  /** By rank. */
  readonly homes: readonly KvHome[];
}

interface KvRequest {
  readonly model: ModelSpec;
  readonly devices: readonly ProfiledDevice[];
  readonly sequencesMax: number;
  readonly kvBlockTokens: number;
  readonly parks: boolean;
}

type Solved = Pick<PlanOutput, 'ranks' | 'predicted' | 'kvLoans'>;

const headsOf = ({ headGroups: [begin, end] }: PlannedRank) => end - begin;

/** For KV, beside a rank's weights. */
function roomBytesOf(rank: PlannedRank, devices: readonly ProfiledDevice[]): number {
  const device = devices.find(({ id }) => id === rank.device);
  if (device === undefined) return 0;
  return Math.max(0, device.memoryBytes - device.reservedBytes - rank.weightBytes);
}

/** Those that the planner chose, of no more blocks than are usable; null where KV lies with its heads. */
function loansOf(request: KvRequest, solved: Solved, usable: number): LoanPlan | null {
  const { model, devices, kvBlockTokens } = request;
  const { ranks, predicted, kvLoans } = solved;
  if (kvLoans === undefined) return null;
  const lenders = ranks.map((rank) => {
    const lines = devices.find(({ id }) => id === rank.device)?.decode ?? [];
    return {
      roomBytes: roomBytesOf(rank, devices),
      headGroups: headsOf(rank),
      contextSeconds: Math.max(0, ...lines.map((line) => line.perContextHeadGroup ?? 0)),
    };
  });
  const blockBytes = kvBlockTokens * kvBytesPerToken(model, 1);
  const planned = Math.floor(predicted.kvTokensTotal / kvBlockTokens);
  return largestLoans(lenders, blockBytes, Math.min(usable, planned));
}

export function kvHomesOf(request: KvRequest, solved: Solved): KvHomes {
  const { model, devices, sequencesMax, kvBlockTokens } = request;
  const limits = { sequencesMax, contextTokensMax: model.maxPositions, kvBlockTokens };
  const usable = usableBlocks(limits);
  const lent = loansOf(request, solved, usable);
  const kvBlocks = lent?.kvBlocks ?? kvBlocksOf(solved.predicted.kvTokensTotal, limits);
  const blockBytes = solved.ranks.map(
    (rank) => kvBlockTokens * kvBytesPerToken(model, headsOf(rank)),
  );
  const heldBytes = solved.ranks.map((_, rank) =>
    (lent?.loans ?? [])
      .filter(({ holder }) => holder === rank)
      .reduce(
        (sum, { owner, blocks }) => sum + (blocks.end - blocks.begin) * at(blockBytes, owner),
        0,
      ),
  );
  const rooms = solved.ranks.map((rank, index) => {
    if (headsOf(rank) === 0) return null;
    const own = at(blockBytes, index);
    const hostBytes = devices.find(({ id }) => id === rank.device)?.hostMemoryBytes ?? 0;
    const free = roomBytesOf(rank, devices) - at(heldBytes, index);
    const lends = (lent?.ownBlocks[index] ?? kvBlocks) < kvBlocks;
    const deviceBlocks = lends ? (lent?.ownBlocks[index] ?? 0) : Math.floor(free / own);
    return { deviceBlocks, hostBlocks: Math.floor(hostBytes / own) };
  });
  // Engines on GPUs do not move what is lent.
  const lendsOnGpu = (lent?.loans.length ?? 0) > 0 && isGpuLoan(kvBlockTokens);
  // Sequences that wait held a slot when they gave way: no more are under way at once than have slots.
  const parkedMax = request.parks && !lendsOnGpu ? usable - kvBlocks : 0;
  const parked = placeParked(kvBlocks, parkedMax, rooms);
  const homes = solved.ranks.map((_, rank) => ({
    deviceBlocks: at(parked.deviceBlocks, rank),
    deviceBytes: at(parked.deviceBlocks, rank) * at(blockBytes, rank) + at(heldBytes, rank),
    hostBytes: at(parked.hostBlocks, rank) * at(blockBytes, rank),
  }));
  const kvRooms = solved.ranks.flatMap((rank, index) =>
    headsOf(rank) === 0
      ? []
      : {
          workerId: rank.device,
          roomBytes: roomBytesOf(rank, devices),
          blockBytes: at(blockBytes, index),
        },
  );
  const { kvParkedBlocks } = parked;
  return { rooms: kvRooms, kvBlocks, kvParkedBlocks, loans: lent?.loans ?? [], homes };
}

const at = (values: readonly number[], index: number) => values[index] ?? 0;
