/**
 * The memories of unequal ranks, and where in them each rank keeps KV of its own heads: on its device, on the next rank's (a loan), or in
 * host memory, as a plan has it (docs/decisions/0010-addresses-with-fixed-homes.md). Ranks with loans share a device, so two homes in one
 * place would show in the text.
 */
export interface KvRooms {
  readonly kvBlocks: number;
  readonly parkedBlocks: number;
  /** By rank: addresses below lie on its device. */
  readonly deviceBlocks: readonly number[];
}

/** A block's cells, and where among them it begins. */
interface Place {
  readonly cells: Map<number, number>;
  readonly block: number;
}

export class KvHomes {
  readonly #rooms: KvRooms;
  /** By rank. */
  readonly #devices: Map<number, number>[];
  readonly #hosts: Map<number, number>[];

  constructor(rooms: KvRooms) {
    this.#rooms = rooms;
    this.#devices = rooms.deviceBlocks.map(() => new Map());
    this.#hosts = rooms.deviceBlocks.map(() => new Map());
  }

  isRemote(rank: number, address: number): boolean {
    return address >= this.#ownOf(rank) && address < this.#rooms.kvBlocks;
  }

  placeOf(rank: number, address: number): Place {
    const { kvBlocks, parkedBlocks, deviceBlocks } = this.#rooms;
    const own = this.#ownOf(rank);
    if (address >= kvBlocks + parkedBlocks) throw new Error(`address ${address} has no home`);
    if (address < own) return { cells: this.#memory(this.#devices, rank), block: address };
    if (address >= kvBlocks) {
      return { cells: this.#memory(this.#hosts, rank), block: address - Math.max(kvBlocks, own) };
    }
    // What it holds for others lies after its own blocks.
    const holder = (rank + 1) % deviceBlocks.length;
    const block = this.#ownOf(holder) + address - own;
    return { cells: this.#memory(this.#devices, holder), block };
  }

  #ownOf(rank: number): number {
    return this.#rooms.deviceBlocks[rank] ?? 0;
  }

  #memory(memories: readonly Map<number, number>[], rank: number): Map<number, number> {
    const memory = memories[rank];
    if (memory === undefined) throw new Error(`there is no rank ${rank}`);
    return memory;
  }
}
