/** How many KV blocks a group has, and on which rank how many of them lie. Pure. */

/** What one rank has for KV of its own heads, in blocks. */
interface RankRoom {
  /** On the device, beside the weights. */
  readonly deviceBlocks: number;
  /** In host memory, for parked KV. */
  readonly hostBlocks: number;
}

interface KvPlacement {
  readonly kvParkedBlocks: number;
  /** By rank: addresses below lie on its device. */
  readonly deviceBlocks: readonly number[];
  /** By rank: parked blocks in its host memory. */
  readonly hostBlocks: readonly number[];
}

/**
 * Parked addresses follow the `kvBlocks` runnable ones, for every rank alike: as many as the rank with the least room for them has, on its
 * device or in its host memory, and no more than `parkedMax`. `rooms` null: the rank has no heads, so no KV.
 */
export function placeParked(
  kvBlocks: number,
  parkedMax: number,
  rooms: readonly (RankRoom | null)[],
): KvPlacement {
  const spare = rooms.flatMap((room) =>
    room === null ? [] : Math.max(0, room.deviceBlocks - kvBlocks) + room.hostBlocks,
  );
  const kvParkedBlocks = Math.max(0, Math.min(parkedMax, ...spare));
  const deviceBlocks = rooms.map((room) => {
    const own = Math.min(kvBlocks + kvParkedBlocks, room?.deviceBlocks ?? kvBlocks);
    return Math.max(own, 0);
  });
  const hostBlocks = deviceBlocks.map((own, rank) =>
    rooms[rank] === null ? 0 : kvBlocks + kvParkedBlocks - Math.max(kvBlocks, own),
  );
  return { kvParkedBlocks, deviceBlocks, hostBlocks };
}
