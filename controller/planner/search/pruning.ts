/** Which options can be part of a split at all: the others the exact oracle need not visit. */
import type { Problem } from '../problem.ts';
import type { DeviceOptions } from './options.ts';
import { meanWeights } from './sums.ts';

/** Of heads, granules and rows each: a number in shares of the whole model. */
type Shares = readonly [heads: number, granules: number, rows: number];

/** What the devices give at some prices when each gives the option that is worth most. */
interface Supply {
  /** Worth of all heads, granules and rows of the model; they add up to 1. */
  readonly prices: Shares;
  /** Of that option, by device. */
  readonly worth: Float64Array;
  /** Worth of all these options beyond that of the model. Below 0 there is no split. */
  readonly slack: number;
  readonly given: Shares;
}

/** Room for rounding in sums of worth. */
const rounding = 1e-9;

/** Prices that are tried, and the slack at which they are good enough. */
const pricesMax = 6;
const slackGood = 1e-3;

/** The least that all units of a kind are worth, and the least of its price that one step leaves. */
const priceMin = 1e-4;
const factorMin = 0.25;

/** The same proportions, none below the least, with the sum 1. */
function asPrices(worth: Shares): Shares {
  const all = Math.max(Number.MIN_VALUE, worth[0] + worth[1] + worth[2]);
  const [heads, granules, rows] = worth.map((each) => Math.max(priceMin, each / all)) as [
    number,
    number,
    number,
  ];
  const sum = heads + granules + rows;
  return [heads / sum, granules / sum, rows / sum];
}

/**
 * The prices at which the slack would be gone if every device kept its option: a subgradient step of `length` times Polyak's, each price changed in
 * proportion to itself, since a kind of little worth is given in excess.
 */
function nextPrices({ prices, slack, given }: Supply, length: number): Shares {
  const mean = prices[0] * given[0] + prices[1] * given[1] + prices[2] * given[2];
  let variance = 0;
  for (const [kind, price] of prices.entries()) {
    variance += price * ((given[kind] as number) - mean) ** 2;
  }
  if (variance === 0) return prices;
  const step = (length * slack) / variance;
  const moved = (kind: 0 | 1 | 2) =>
    prices[kind] * Math.max(factorMin, 1 - step * (given[kind] - mean));
  return asPrices([moved(0), moved(1), moved(2)]);
}

/**
 * Bounds options by prices of heads, granules and rows (Lagrange multipliers of the three sums). Whatever the prices, a split is worth as much as the
 * model, and no device gives more than its best option: an option whose worth lacks more to that than all the best ones have to spare is in no split.
 * Keeps good prices from one step time to the next.
 */
export class Pruning {
  readonly #problem: Problem;
  #prices: Shares;

  constructor(problem: Problem) {
    this.#problem = problem;
    const { perHeadGroup, perColumn, perRow } = meanWeights(problem);
    this.#prices = asPrices([
      perHeadGroup * problem.headGroups,
      perColumn * problem.ffnColumns,
      perRow * problem.vocabRows,
    ]);
  }

  /** The options that may be part of a split, by device and in their order; null: there is no split. */
  promising(devices: readonly DeviceOptions[]): DeviceOptions[] | null {
    if (devices.some(({ heads }) => heads.length === 0)) return null;
    let best = this.#supplyAt(this.#prices, devices);
    let length = 1;
    for (let tried = 1; tried < pricesMax && best.slack > slackGood; tried += 1) {
      const next = this.#supplyAt(nextPrices(best, length), devices);
      if (next.slack < best.slack) best = next;
      else length /= 2;
    }
    this.#prices = best.prices;
    if (best.slack < -rounding) return null;
    return devices.map((options, device) => this.#kept(options, best, device));
  }

  #supplyAt(prices: Shares, devices: readonly DeviceOptions[]): Supply {
    const { headGroups, granules, vocabRows } = this.#problem;
    const [perHead, perGranule, perRow] = this.#unitPrices(prices);
    const worth = new Float64Array(devices.length);
    const given = [0, 0, 0] as [number, number, number];
    let sum = 0;
    // The last granule may be short: one device may give a little more than its best option.
    let closing = 0;
    for (const [device, options] of devices.entries()) {
      let most = Number.NEGATIVE_INFINITY;
      let mostClosing = most;
      let place = 0;
      for (let option = 0; option < options.heads.length; option += 1) {
        const units =
          perHead * (options.heads[option] as number) +
          perGranule * (options.granules[option] as number);
        const open = units + perRow * (options.rows[option] as number);
        if (open > most) [most, place] = [open, option];
        mostClosing = Math.max(
          mostClosing,
          units + perRow * (options.closingRows[option] as number),
        );
      }
      worth[device] = most;
      sum += most;
      closing = Math.max(closing, mostClosing - most);
      given[0] += (options.heads[place] as number) / headGroups;
      given[1] += (options.granules[place] as number) / granules;
      given[2] += (options.rows[place] as number) / vocabRows;
    }
    return { prices, worth, slack: sum + closing - 1, given };
  }

  #kept(options: DeviceOptions, { prices, worth, slack }: Supply, device: number): DeviceOptions {
    const [perHead, perGranule, perRow] = this.#unitPrices(prices);
    const least = (worth[device] as number) - slack - rounding;
    const kept: number[] = [];
    for (let option = 0; option < options.heads.length; option += 1) {
      const rows = Math.max(options.rows[option] as number, options.closingRows[option] as number);
      const value =
        perHead * (options.heads[option] as number) +
        perGranule * (options.granules[option] as number) +
        perRow * rows;
      if (value >= least) kept.push(option);
    }
    const pick = (units: readonly number[]) => kept.map((option) => units[option] as number);
    return {
      heads: pick(options.heads),
      granules: pick(options.granules),
      rows: pick(options.rows),
      closingRows: pick(options.closingRows),
    };
  }

  #unitPrices(prices: Shares): Shares {
    const { headGroups, granules, vocabRows } = this.#problem;
    return [prices[0] / headGroups, prices[1] / granules, prices[2] / vocabRows];
  }
}
