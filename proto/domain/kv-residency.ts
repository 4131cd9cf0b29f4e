/**
 * Where KV lies. Block ids are addresses of the group, the same on every rank; the plan gives each address one home for each rank's own
 * heads (docs/decisions/0010-addresses-with-fixed-homes.md):
 *
 *   [0 ................... kvBlocks)   runnable: steps read and write them
 *   [kvBlocks ... + kvParkedBlocks)   parked: KV of sequences that wait
 *
 *   device   addresses below the rank's deviceBlocks
 *   loan     the other runnable ones; they lie on another rank, which attends for this one
 *   host     the other parked ones
 */
import { HelsError } from './errors.ts';

/** Half-open range of addresses. */
interface BlockRange {
  readonly begin: number;
  readonly end: number;
}

/** KV of the owner's heads at these addresses lies on the holder. Both are rank numbers. */
export interface KvLoan {
  readonly owner: number;
  readonly holder: number;
  readonly blocks: BlockRange;
}

/** KV of the block at address `from` is copied to address `to`. */
export interface KvMove {
  readonly from: number;
  readonly to: number;
}

export interface KvResidency {
  readonly kvBlocks: number;
  readonly kvParkedBlocks: number;
  readonly kvBlockTokens: number;
  /** By rank. */
  readonly deviceBlocks: readonly number[];
  readonly loans: readonly KvLoan[];
}

/** Addresses are int32 on the wire and in the engine. */
const addressesMax = 2 ** 31 - 1;
/** Positions of a block: the merge of remote parts goes by attention chunks, so a block on loan holds whole ones. */
export const loanBlockTokens = 64;
/** Chunks of attention on a GPU. */
export const gpuLoanBlockTokens = 256;

/** Whether blocks of this size lie on loan between GPUs, which exchange otherwise than processors. */
export const isGpuLoan = (blockTokens: number) => blockTokens % gpuLoanBlockTokens === 0;
/** What a worker reads before it knows who sent it. */
export const loansMax = 4096;

/** A plan's words for it, as they come from the wire: absent numbers are 0, absent ranges null. */
interface PlanMessage {
  readonly kvBlocks: number;
  readonly kvBlockTokens: number;
  readonly kvParkedBlocks: number;
  readonly kvLoans: readonly {
    owner: number;
    holder: number;
    blocks: BlockRange | null;
  }[];
  readonly ranks: readonly { kvDeviceBlocks: number }[];
}

/** A rank that says nothing has all runnable addresses on its device, unless it is an owner of loans. */
export function residencyOf(plan: PlanMessage): KvResidency {
  const { kvBlocks, kvBlockTokens, kvParkedBlocks } = plan;
  const loans = plan.kvLoans.map(({ owner, holder, blocks }) => ({
    owner,
    holder,
    blocks: { begin: blocks?.begin ?? 0, end: blocks?.end ?? 0 },
  }));
  const owners = new Set(loans.map(({ owner }) => owner));
  const deviceBlocks = plan.ranks.map(({ kvDeviceBlocks }, rank) =>
    kvDeviceBlocks === 0 && !owners.has(rank) ? kvBlocks : kvDeviceBlocks,
  );
  return { kvBlocks, kvParkedBlocks, kvBlockTokens, deviceBlocks, loans };
}

function refuse(field: string, message: string): never {
  throw new HelsError('request-invalid', `${field} ${message}`, { field });
}

const isWhole = (value: number, low: number, end: number) =>
  Number.isInteger(value) && value >= low && value < end;

function checkLoan(residency: KvResidency, { owner, holder, blocks }: KvLoan, at: string): void {
  const { kvBlocks, deviceBlocks } = residency;
  const ranks = deviceBlocks.length;
  if (!isWhole(owner, 0, ranks)) {
    refuse(`${at}.owner`, `is ${owner}; it must be a rank from 0 to ${ranks - 1}`);
  }
  if (!isWhole(holder, 0, ranks) || holder === owner) {
    refuse(
      `${at}.holder`,
      `is ${holder}; it must be a rank from 0 to ${ranks - 1} other than the owner ${owner}`,
    );
  }
  const low = deviceBlocks[owner] ?? 0;
  const { begin, end } = blocks;
  if (!(isWhole(begin, low, kvBlocks) && isWhole(end, begin + 1, kvBlocks + 1))) {
    refuse(
      `${at}.blocks`,
      `is [${begin}, ${end}); it must be a range within [${low}, ${kvBlocks}), the runnable addresses that rank ${owner} has no room for`,
    );
  }
}

/** Each runnable address beyond the owner's own room must be lent exactly once. */
function checkCovered({ kvBlocks, deviceBlocks, loans }: KvResidency, owner: number): void {
  let next = deviceBlocks[owner] ?? 0;
  const own = loans.filter((loan) => loan.owner === owner).map(({ blocks }) => blocks);
  for (const { begin, end } of own.toSorted((left, right) => left.begin - right.begin)) {
    if (begin !== next) {
      const what = begin < next ? 'is lent twice' : 'has no home';
      refuse('kv_loans', `of rank ${owner}: address ${Math.min(begin, next)} ${what}`);
    }
    next = end;
  }
  if (next < kvBlocks) {
    refuse(
      'kv_device_blocks',
      `of rank ${owner} is ${deviceBlocks[owner]}; the runnable addresses [${next}, ${kvBlocks}) have no home`,
    );
  }
}

/** Throws request-invalid, naming field, value and range, unless every address has one home for each rank. */
export function checkResidency(residency: KvResidency): void {
  const { kvBlocks, kvParkedBlocks, kvBlockTokens, deviceBlocks, loans } = residency;
  const addresses = kvBlocks + kvParkedBlocks;
  if (!isWhole(kvParkedBlocks, 0, addressesMax) || addresses > addressesMax) {
    refuse(
      'kv_parked_blocks',
      `is ${kvParkedBlocks}; with kv_blocks ${kvBlocks} there may be at most ${addressesMax} addresses`,
    );
  }
  if (loans.length > loansMax) refuse('kv_loans', `has ${loans.length} entries of ${loansMax}`);
  if (loans.length > 0 && kvBlockTokens % loanBlockTokens !== 0) {
    refuse(
      'kv_block_tokens',
      `is ${kvBlockTokens}; with kv_loans it must be a multiple of ${loanBlockTokens}`,
    );
  }
  for (const [rank, blocks] of deviceBlocks.entries()) {
    if (isWhole(blocks, 0, addresses + 1)) continue;
    refuse('kv_device_blocks', `of rank ${rank} is ${blocks}; it must be from 0 to ${addresses}`);
  }
  for (const [index, loan] of loans.entries()) checkLoan(residency, loan, `kv_loans[${index}]`);
  for (const owner of deviceBlocks.keys()) checkCovered(residency, owner);
}

/** Runnable addresses below this lie, for every rank, on the device of the heads that they are of. */
export function localBlocksOf({ kvBlocks, deviceBlocks }: KvResidency): number {
  return Math.min(kvBlocks, ...deviceBlocks);
}

/** The rank with the KV of the owner's heads at a runnable address. */
export function placeOf(
  { deviceBlocks, loans }: KvResidency,
  owner: number,
  address: number,
): number {
  if (address < (deviceBlocks[owner] ?? 0)) return owner;
  const lent = loans.find(
    (loan) => loan.owner === owner && loan.blocks.begin <= address && address < loan.blocks.end,
  );
  return lent?.holder ?? owner;
}

/** Blocks of the rank's own heads that lie in its host memory. */
export function hostBlocksOf(residency: KvResidency, rank: number): number {
  const { kvBlocks, kvParkedBlocks, deviceBlocks } = residency;
  return kvBlocks + kvParkedBlocks - Math.max(kvBlocks, deviceBlocks[rank] ?? 0);
}

/** Runnable blocks of the rank's own heads that lie elsewhere. */
export function lentBlocksOf({ kvBlocks, deviceBlocks }: KvResidency, rank: number): number {
  return Math.max(0, kvBlocks - (deviceBlocks[rank] ?? 0));
}
