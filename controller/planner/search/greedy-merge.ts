/** A binary heap of device indices by cost, cheapest first; ties go to the earlier device. */
class CostHeap {
  readonly #costs: Float64Array;
  readonly #items: number[] = [];

  constructor(devices: number) {
    this.#costs = new Float64Array(devices);
  }

  get size(): number {
    return this.#items.length;
  }

  /** Cost of the cheapest device; Infinity when empty. */
  get topCost(): number {
    const top = this.#items[0];
    return top === undefined ? Number.POSITIVE_INFINITY : (this.#costs[top] as number);
  }

  push(device: number, cost: number): void {
    this.#costs[device] = cost;
    const items = this.#items;
    let index = items.push(device) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#before(items[index] as number, items[parent] as number)) return;
      this.#swap(index, parent);
      index = parent;
    }
  }

  pop(): number {
    const items = this.#items;
    const top = items[0] as number;
    const last = items.pop() as number;
    if (items.length === 0) return top;
    items[0] = last;
    let index = 0;
    for (;;) {
      let least = 2 * index + 1;
      if (least >= items.length) return top;
      const right = least + 1;
      if (right < items.length && this.#before(items[right] as number, items[least] as number)) {
        least = right;
      }
      if (!this.#before(items[least] as number, items[index] as number)) return top;
      this.#swap(index, least);
      index = least;
    }
  }

  #before(first: number, second: number): boolean {
    const difference = (this.#costs[first] as number) - (this.#costs[second] as number);
    return difference < 0 || (difference === 0 && first < second);
  }

  #swap(first: number, second: number): void {
    const item = this.#items[first] as number;
    this.#items[first] = this.#items[second] as number;
    this.#items[second] = item;
  }
}

/** Largest n in [1, limit] whose last unit costs at most `ceiling`; marginal costs do not fall. */
function gallop(limit: number, ceiling: number, costOfUnit: (n: number) => number): number {
  let low = 1;
  let step = 1;
  while (low + step <= limit && costOfUnit(low + step) <= ceiling) {
    low += step;
    step *= 2;
  }
  let high = Math.min(limit + 1, low + step);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (costOfUnit(middle) <= ceiling) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * Hands out `total` equal units so that the summed cost is least. `marginal(device, n)` is the cost of the device's unit n+1, not
 * falling in n; Infinity where it has no room. Exact for convex costs. Null when the devices have no room for all units.
 */
export function greedyMerge(
  total: number,
  devices: number,
  marginal: (device: number, units: number) => number,
): number[] | null {
  const counts = new Array<number>(devices).fill(0);
  const heap = new CostHeap(devices);
  for (let device = 0; device < devices; device += 1) {
    const cost = marginal(device, 0);
    if (cost < Number.POSITIVE_INFINITY) heap.push(device, cost);
  }
  let left = total;
  while (left > 0) {
    if (heap.size === 0) return null;
    const device = heap.pop();
    const have = counts[device] as number;
    // A device stays the cheapest while its next units cost no more than the next device's first.
    const ceiling = Math.min(heap.topCost, Number.MAX_VALUE);
    const taken = gallop(left, ceiling, (n) => marginal(device, have + n - 1));
    counts[device] = have + taken;
    left -= taken;
    const cost = left > 0 ? marginal(device, have + taken) : Number.POSITIVE_INFINITY;
    if (cost < Number.POSITIVE_INFINITY) heap.push(device, cost);
  }
  return counts;
}
