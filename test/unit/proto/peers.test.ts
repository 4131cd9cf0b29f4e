import * as grpc from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { RegistryService } from '../../../proto/rpc/definitions.ts';
import { Peers } from '../../../proto/rpc/peers.ts';

const peersOf = (...addresses: string[]) =>
  new Peers(RegistryService, addresses, grpc.credentials.createInsecure());

describe('the controllers of a list', () => {
  it('are called one after the other, round and round, each over its own channel', () => {
    const peers = peersOf('a:1', 'b:1', 'c:1');
    const seen = Array.from({ length: 4 }, () => {
      const peer = peers.current;
      expect(peers.current).toBe(peer);
      peers.passOver(peer);
      return peer;
    });
    expect(seen.map(({ address }) => address)).toEqual(['a:1', 'b:1', 'c:1', 'a:1']);
    expect(seen[3]).toBe(seen[0]);
    peers.close();
  });

  it('are passed over once by calls that fail together', () => {
    const peers = peersOf('a:1', 'b:1', 'c:1');
    const first = peers.current;
    peers.passOver(first);
    peers.passOver(first);
    expect(peers.current.address).toBe('b:1');
    peers.close();
  });

  it('are all tried before there is a pause, which grows from round to round', () => {
    const several = peersOf('a:1', 'b:1');
    expect([1, 2, 3, 4, 5, 6].map((failures) => several.pauseMs(failures, 1))).toEqual([
      0, 200, 0, 400, 0, 800,
    ]);
    const one = peersOf('a:1');
    expect([1, 2, 3].map((failures) => one.pauseMs(failures, 1))).toEqual([200, 400, 800]);
    for (const peers of [several, one]) peers.close();
  });

  it('are not called after close: no channel is opened then', () => {
    let opened = 0;
    class Counted extends RegistryService {
      constructor(...all: ConstructorParameters<typeof RegistryService>) {
        super(...all);
        opened += 1;
      }
    }
    const peers = new Peers(Counted, ['a:1', 'b:1'], grpc.credentials.createInsecure());
    const { current } = peers;
    peers.close();
    // A call that fails meanwhile moves on.
    for (let failed = 0; failed < 2; failed += 1) peers.passOver(current);
    expect(peers.address).toBe('b:1');
    expect(() => peers.current).toThrow('b:1 is not called: its client is closed');
    expect(opened).toBe(1);
  });
});
