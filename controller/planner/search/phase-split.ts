/** Units of each phase spread over devices so that the slowest of them takes least: what ranks in lockstep want. */
import { weightBytes } from '../evaluate.ts';
import type { Counts, Problem, ProblemDevice } from '../problem.ts';

const rowBisections = 50;

/** Highest seconds of one unit over the device's lines. */
export function unitSeconds(
  device: ProblemDevice,
  unit: 'perHeadGroup' | 'perColumn' | 'perRow',
): number {
  return device.decode.reduce((most, line) => Math.max(most, line[unit]), 0);
}

function emptyCounts(devices: number): number[] {
  return new Array<number>(devices).fill(0);
}

/** Bytes that `members` still have with these heads and granules. */
function roomLeft(
  problem: Problem,
  member: number,
  heads: readonly number[],
  granules: readonly number[],
): number {
  const { footprint, residentTokens, granuleColumns } = problem;
  const headGroups = heads[member] ?? 0;
  const ffnColumns = (granules[member] ?? 0) * granuleColumns;
  const device = problem.devices[member] as ProblemDevice;
  // A member holds the embedding even with nothing else: it is about to be given something.
  const weights = Math.max(
    footprint.fixed,
    weightBytes(problem, { headGroups, ffnColumns, vocabRows: 0 }),
  );
  return device.roomBytes - weights - residentTokens * footprint.kvPerTokenHeadGroup * headGroups;
}

/**
 * Hands out `units` one by one to the member that then needs least for its own, while it has room: the least possible maximum. Null
 * when they do not fit.
 */
function handOut(
  units: number,
  members: readonly number[],
  secondsOf: (member: number, units: number) => number,
  bytesOf: number,
  room: Map<number, number>,
  devices: number,
): number[] | null {
  const counts = emptyCounts(devices);
  for (let unit = 0; unit < units; unit += 1) {
    let taker = -1;
    let least = Number.POSITIVE_INFINITY;
    for (const member of members) {
      if ((room.get(member) ?? 0) < bytesOf) continue;
      const seconds = secondsOf(member, (counts[member] ?? 0) + 1);
      if (seconds < least) [taker, least] = [member, seconds];
    }
    if (taker < 0) return null;
    counts[taker] = (counts[taker] ?? 0) + 1;
    room.set(taker, (room.get(taker) ?? 0) - bytesOf);
  }
  return counts;
}

/** Vocabulary rows with the least possible maximum of their seconds, within the room that is left. Null when they do not fit. */
export function spreadRows(
  problem: Problem,
  members: readonly number[],
  heads: readonly number[],
  granules: readonly number[],
): number[] | null {
  const { vocabRows, footprint } = problem;
  const caps = members.map((member) =>
    Math.max(
      0,
      Math.min(
        vocabRows,
        Math.floor(roomLeft(problem, member, heads, granules) / footprint.perRow),
      ),
    ),
  );
  if (caps.reduce((sum, cap) => sum + cap, 0) < vocabRows) return null;
  const cost = members.map((member) =>
    unitSeconds(problem.devices[member] as ProblemDevice, 'perRow'),
  );
  const within = (seconds: number) =>
    members.map((_, index) => {
      const each = cost[index] as number;
      const cap = caps[index] as number;
      return each === 0 ? cap : Math.min(cap, Math.floor(seconds / each));
    });
  const total = (rows: readonly number[]) => rows.reduce((sum, count) => sum + count, 0);
  let low = 0;
  let high = Math.max(...cost) * vocabRows;
  for (let step = 0; step < rowBisections; step += 1) {
    const middle = (low + high) / 2;
    if (total(within(middle)) >= vocabRows) high = middle;
    else low = middle;
  }
  const rows = within(high);
  let surplus = total(rows) - vocabRows;
  const counts = emptyCounts(problem.devices.length);
  for (const [index, member] of members.entries()) {
    const back = Math.min(surplus, rows[index] as number);
    counts[member] = (rows[index] as number) - back;
    surplus -= back;
  }
  return counts;
}

/** Heads and granules each with the least maximum of their own seconds; `headsFirst` decides who gets scarce memory. */
export function phaseSplit(
  problem: Problem,
  members: readonly number[],
  headsFirst: boolean,
): Counts | null {
  const { devices, footprint, granuleColumns, residentTokens } = problem;
  const room = new Map(
    members.map((member) => [
      member,
      (devices[member] as ProblemDevice).roomBytes - footprint.fixed,
    ]),
  );
  const constant = (member: number) =>
    (devices[member] as ProblemDevice).decode.reduce(
      (most, line) => Math.max(most, line.constant),
      0,
    );
  const giveHeads = () =>
    handOut(
      problem.headGroups,
      members,
      (member, units) =>
        constant(member) + units * unitSeconds(devices[member] as ProblemDevice, 'perHeadGroup'),
      footprint.perHeadGroup + residentTokens * footprint.kvPerTokenHeadGroup,
      room,
      devices.length,
    );
  const giveGranules = () =>
    handOut(
      problem.granules,
      members,
      (member, units) => units * unitSeconds(devices[member] as ProblemDevice, 'perColumn'),
      footprint.perColumn * granuleColumns,
      room,
      devices.length,
    );
  const first = headsFirst ? giveHeads() : giveGranules();
  const second = first === null ? null : headsFirst ? giveGranules() : giveHeads();
  if (first === null || second === null) return null;
  const [headGroups, granules] = headsFirst ? [first, second] : [second, first];
  const vocabRows = spreadRows(problem, members, headGroups, granules);
  return vocabRows === null ? null : { headGroups, granules, vocabRows };
}
