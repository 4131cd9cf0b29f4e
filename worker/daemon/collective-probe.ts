/** This worker's end of the collective that is measured before there is a plan: at most one at a time. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { OpenProbeRequest__Output } from '../../proto/gen/hels/v1/OpenProbeRequest.ts';
import type { ProbeCollectiveRequest__Output } from '../../proto/gen/hels/v1/ProbeCollectiveRequest.ts';
import type { CollectiveProbe } from '../binding/native.ts';
import { compareFences, type Fence, showFence } from './fence.ts';
import { fenceOf } from './wire.ts';

export type OpenProbe = (rank: number, ranks: number, host: string) => Promise<CollectiveProbe>;

export class ProbeHolder {
  readonly #open: OpenProbe;
  readonly #host: string;
  #held: { fence: Fence; probe: CollectiveProbe } | null = null;

  /** `host`: where the other ranks reach this one. */
  constructor(open: OpenProbe, host: string) {
    this.#open = open;
    this.#host = host;
  }

  /** Resolves to this end's address; an older probe ends. */
  async open(request: OpenProbeRequest__Output): Promise<string> {
    const { rank, ranks } = request;
    if (ranks < 2 || rank >= ranks) {
      throw new HelsError(
        'request-invalid',
        `rank is ${rank} of ${ranks}; a probe needs 2 or more ranks and a rank below their number`,
        { field: 'rank' },
      );
    }
    this.close();
    const probe = await this.#open(rank, ranks, this.#host);
    this.close();
    this.#held = { fence: fenceOf(request), probe };
    return probe.address;
  }

  async measure(request: ProbeCollectiveRequest__Output): Promise<number[]> {
    const fence = fenceOf(request);
    const held = this.#held;
    if (held === null || compareFences(held.fence, fence) !== 0) {
      throw new HelsError('not-ready', `no probe is open for fence ${showFence(fence)}`);
    }
    const { collectiveAddresses, deadlineMs, tokens, hiddenSize, sums } = request;
    const { repetitions, budgetMs } = request;
    const load = { tokens, hiddenSize, sums, repetitions, budgetMs };
    try {
      return await held.probe.measure(collectiveAddresses, load, deadlineMs);
    } finally {
      if (this.#held === held) this.#held = null;
    }
  }

  close(): void {
    this.#held?.probe.abort();
    this.#held = null;
  }
}
