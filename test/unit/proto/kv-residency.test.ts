import { describe, expect, it } from 'vitest';
import {
  checkResidency,
  hostBlocksOf,
  type KvResidency,
  lentBlocksOf,
  residencyOf,
} from '../../../proto/domain/kv-residency.ts';

const residency = (changes: Partial<KvResidency> = {}): KvResidency => ({
  kvBlocks: 10,
  kvParkedBlocks: 6,
  kvBlockTokens: 64,
  deviceBlocks: [10, 13, 4],
  loans: [
    { owner: 2, holder: 1, blocks: { begin: 7, end: 10 } },
    { owner: 2, holder: 0, blocks: { begin: 4, end: 7 } },
  ],
  ...changes,
});
const loan = (owner: number, holder: number, begin: number, end: number) => ({
  loans: [{ owner, holder, blocks: { begin, end } }],
});

describe('where KV lies', () => {
  it('is one home for each address and rank', () => {
    const homes = residency();
    checkResidency(homes);
    expect([0, 1, 2].map((rank) => hostBlocksOf(homes, rank))).toEqual([6, 3, 6]);
    expect([0, 1, 2].map((rank) => lentBlocksOf(homes, rank))).toEqual([0, 0, 6]);
  });

  it('is the device for a plan that says nothing', () => {
    const plan = { kvBlocks: 5, kvBlockTokens: 16, kvParkedBlocks: 0, kvLoans: [] };
    const homes = residencyOf({ ...plan, ranks: [{ kvDeviceBlocks: 0 }, { kvDeviceBlocks: 5 }] });
    checkResidency(homes);
    expect(homes.deviceBlocks).toEqual([5, 5]);
    expect(hostBlocksOf(homes, 0)).toBe(0);
  });

  it('is nowhere on its own device for an owner without room', () => {
    const blocks = { begin: 0, end: 5 };
    const plan = { kvBlocks: 5, kvBlockTokens: 64, kvParkedBlocks: 0 };
    const kvLoans = [{ owner: 0, holder: 1, blocks }];
    const homes = residencyOf({
      ...plan,
      kvLoans,
      ranks: [{ kvDeviceBlocks: 0 }, { kvDeviceBlocks: 5 }],
    });
    checkResidency(homes);
    expect(homes.deviceBlocks).toEqual([0, 5]);
  });

  it.each<[Partial<KvResidency>, RegExp]>([
    [{ kvBlockTokens: 16 }, /^kv_block_tokens is 16; with kv_loans .* multiple of 64/],
    [{ kvParkedBlocks: 2 ** 31 }, /^kv_parked_blocks is 2147483648; .* at most 2147483647/],
    [{ kvParkedBlocks: 2 ** 31 - 5 }, /^kv_parked_blocks is/],
    [{ deviceBlocks: [10, 17, 4] }, /^kv_device_blocks of rank 1 is 17; .* from 0 to 16/],
    [{ loans: [] }, /^kv_device_blocks of rank 2 is 4; .* \[4, 10\) have no home/],
    [loan(3, 0, 4, 10), /^kv_loans\[0\].owner is 3; .* 0 to 2/],
    [loan(2, 2, 4, 10), /^kv_loans\[0\].holder is 2; .* other than the owner 2/],
    [loan(2, 0, 3, 10), /^kv_loans\[0\].blocks is \[3, 10\); .* \[4, 10\)/],
    [loan(2, 0, 4, 11), /^kv_loans\[0\].blocks is/],
    [loan(2, 0, 6, 6), /^kv_loans\[0\].blocks is/],
    [loan(2, 0, 5, 10), /^kv_loans of rank 2: address 4 has no home/],
    [
      {
        loans: [
          { owner: 2, holder: 0, blocks: { begin: 4, end: 8 } },
          { owner: 2, holder: 1, blocks: { begin: 7, end: 10 } },
        ],
      },
      /^kv_loans of rank 2: address 7 is lent twice/,
    ],
  ])('is refused with names and numbers: %j', (changes, message) => {
    expect(() => checkResidency(residency(changes))).toThrow(message);
  });
});
