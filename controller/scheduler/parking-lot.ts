import { LowestFirst } from './lowest-first.ts';

/** The parked addresses of the group: each is free or holds one block of one sequence that waits. Pure bookkeeping. */
export class ParkingLot {
  readonly #begin: number;
  readonly #end: number;
  readonly #free: LowestFirst;
  readonly #used: Set<number>;

  /** Addresses [begin, end), of which `used` are. Low ids first: those are the ones that may lie on a device. */
  constructor(begin: number, end: number, used: readonly number[] = []) {
    this.#begin = begin;
    this.#end = end;
    const wrong = used.find((address) => address < begin || address >= end);
    if (wrong !== undefined) {
      throw new Error(`parked address ${wrong} is used; there are [${begin}, ${end})`);
    }
    this.#used = new Set(used);
    this.#free = new LowestFirst(begin, end, this.#used);
  }

  get total(): number {
    return this.#end - this.#begin;
  }

  get freeCount(): number {
    return this.#free.size;
  }

  get usedCount(): number {
    return this.#used.size;
  }

  get used(): ReadonlySet<number> {
    return this.#used;
  }

  /** Throws when none is free. */
  take(): number {
    const address = this.#free.take();
    if (address === undefined) throw new Error('no parked address is free');
    this.#used.add(address);
    return address;
  }

  /** Throws for an address that is not used: given back twice, it would get two owners. */
  giveBack(addresses: readonly number[]): void {
    for (const address of addresses) {
      if (!this.#used.delete(address)) throw new Error(`parked address ${address} is not used`);
      this.#free.add(address);
    }
  }

  /** Throws unless every address is free or used, and used exactly once by `holders`. */
  checkIntegrity(holders: readonly (readonly number[])[]): void {
    const named = holders.flat();
    const lost = named.filter((address) => !this.#used.has(address));
    if (
      lost.length > 0 ||
      new Set(named).size !== named.length ||
      named.length !== this.usedCount
    ) {
      throw new Error(
        `parked addresses: ${named.length} are named by holders, ${this.usedCount} are used, ${lost.length} of them not`,
      );
    }
    const states = new Set([...this.#free.values, ...this.#used]);
    if (states.size !== this.total || this.freeCount + this.usedCount !== this.total) {
      throw new Error(`parked addresses: ${states.size} states of ${this.total}`);
    }
  }
}
