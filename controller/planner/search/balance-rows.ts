import { better, type Candidate, candidateOf, sharesOf } from '../evaluate.ts';
import type { Problem } from '../problem.ts';
import { capacitiesWithin, rowsBeside, spreadRows } from './capacity.ts';

/** Relative width at which the bisection over the step time ends. */
const width = 1e-10;

/** One latency line of a device with its heads and columns filled in. */
interface RowLine {
  readonly device: number;
  readonly constant: number;
  readonly perRow: number;
}

/** Most rows of all devices within `seconds`; `roomRows` bounds each device, `scratch` is as long. */
function rowsWithin(
  lines: readonly RowLine[],
  roomRows: Float64Array,
  scratch: Float64Array,
  seconds: number,
): number {
  scratch.set(roomRows);
  for (const { device, constant, perRow } of lines) {
    const slack = seconds - constant;
    if (slack < perRow * (scratch[device] as number)) {
      scratch[device] = slack > 0 ? Math.floor(slack / perRow) : 0;
    }
  }
  let rows = 0;
  for (const room of scratch) rows += room;
  return rows;
}

/**
 * The same heads and FFN columns with the vocabulary rows spread for the shortest step. Rows are so fine that this takes the last
 * fraction of a percent that a whole head or granule cannot. Never slower than `start`.
 */
export function balanceRows(problem: Problem, start: Candidate): Candidate {
  const { headGroups, granules } = start.counts;
  const columns = sharesOf(problem, start.counts).map((share) => share.ffnColumns);
  const rooms = (seconds: number): number[] =>
    capacitiesWithin(problem, seconds).map((capacity, index) =>
      rowsBeside(capacity, headGroups[index] as number, columns[index] as number),
    );
  const high = start.evaluation.decodeSeconds;
  // No device takes more rows in less time: what it has room for at the time of `start`, memory included, bounds it.
  const roomRows = Float64Array.from(rooms(high), (rows) =>
    Math.min(problem.vocabRows, Math.max(0, Math.floor(rows))),
  );
  const lines = problem.devices.flatMap((device, index) =>
    device.decode.map((line) => ({
      device: index,
      constant:
        line.constant +
        device.decodeLink +
        line.perHeadGroup * (headGroups[index] as number) +
        line.perColumn * (columns[index] as number),
      perRow: line.perRow,
    })),
  );
  const scratch = new Float64Array(roomRows.length);
  const working = headGroups.map((count, index) => count > 0 || (columns[index] as number) > 0);
  let low = lines.reduce(
    (most, line) => (working[line.device] === true ? Math.max(most, line.constant) : most),
    0,
  );
  let seconds = high;
  while (seconds - low > width * seconds) {
    const middle = (low + seconds) / 2;
    if (rowsWithin(lines, roomRows, scratch, middle) < problem.vocabRows) low = middle;
    else seconds = middle;
  }
  const vocabRows = spreadRows(problem.vocabRows, rooms(seconds), working);
  if (vocabRows === null) return start;
  return better(start, candidateOf(problem, { headGroups, granules, vocabRows })) ?? start;
}
