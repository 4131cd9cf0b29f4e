/** Rank streams without workers: what the step loop sent is kept, and the test decides when and what each rank answers. */
import { EventEmitter } from 'node:events';
import type { OpenRankStream, RankListener } from '../../controller/engine/rank-stream.ts';
import { nothingKept } from '../../controller/scheduler/hand-over.ts';
import type { StepPlan } from '../../controller/scheduler/scheduler.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import type { StepRequest } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import { KvHashRank, movesOf } from './kv-hash-rank.ts';

export class FakeRank {
  readonly workerId: string;
  readonly requests: StepRequest[] = [];
  closed = false;
  #listener: RankListener | null = null;
  readonly #engine: KvHashRank;
  readonly #kvBlockTokens: number;
  #answered = 0;

  constructor(workerId: string, kvBlockTokens: number, engine = new KvHashRank(kvBlockTokens)) {
    this.workerId = workerId;
    this.#kvBlockTokens = kvBlockTokens;
    this.#engine = engine;
  }

  /** A rank of the next epoch, which holds the KV in addresses below `keptBlocks`. */
  successor(keptBlocks: number): FakeRank {
    const kept = movesOf({ ...nothingKept, blocks: keptBlocks });
    const engine = this.#engine.successor(this.#kvBlockTokens, kept);
    return new FakeRank(this.workerId, this.#kvBlockTokens, engine);
  }

  readonly open: OpenRankStream = (listener) => {
    this.#listener = listener;
    return {
      workerId: this.workerId,
      send: (request) => {
        if (this.closed) throw new Error('sent on a closed stream');
        this.requests.push(request);
      },
      close: () => {
        this.closed = true;
      },
    };
  };

  get waiting(): number {
    return this.requests.length - this.#answered;
  }

  /** The oldest unanswered step. */
  get next(): StepRequest | undefined {
    return this.requests[this.#answered];
  }

  #take(): { step: number; sequences: StepPlan['sequences']; moves: StepPlan['moves'] } {
    const request = this.next;
    if (request === undefined) throw new Error(`${this.workerId} was not asked anything`);
    this.#answered += 1;
    const sequences = (request.sequences ?? []) as StepPlan['sequences'];
    const moves = (request.kvMoves ?? []) as StepPlan['moves'];
    return { step: Number(request.step), sequences, moves };
  }

  /** The answer to the oldest unanswered step, not sent yet. */
  compute(): StepResponse__Output {
    const { step, sequences, moves } = this.#take();
    // After a step that was refused: its token is not there.
    const lacks = sequences.find(
      ({ takeSampled, slot }) => takeSampled && !this.#engine.hasSampled(slot),
    );
    if (lacks !== undefined) return refusalOf(step, lacks.slot);
    return responseOf(step, {
      sampled: this.#engine
        .run({ sequences, moves })
        .map((token) => ({ ...token, logprob: 0, topLogprobs: [] })),
    });
  }

  answer(change: Partial<StepResponse__Output> = {}): void {
    this.send({ ...this.compute(), ...change });
  }

  /** Nothing of the oldest unanswered step is done, because of the sequence in this slot; null: of none. */
  refuse(slot: number | null): void {
    this.send(refusalOf(this.#take().step, slot));
  }

  send(response: StepResponse__Output): void {
    this.#listener?.response(response);
  }

  break(error: HelsError): void {
    this.#listener?.ended(error);
  }
}

function refusalOf(step: number, slot: number | null): StepResponse__Output {
  const error = { code: 'shape-invalid', message: 'topP is 0' };
  return responseOf(step, { error: slot === null ? error : { ...error, slot } });
}

export function responseOf(
  step: number,
  fields: Partial<StepResponse__Output> = {},
): StepResponse__Output {
  return {
    fence: null,
    step,
    sampled: [],
    computeSeconds: 0.001,
    collectiveSeconds: 0.001,
    totalSeconds: 0.002,
    moveSeconds: 0,
    remoteSeconds: 0,
    error: null,
    logits: Buffer.alloc(0),
    ...fields,
  };
}

/** A worker's stub whose step stream is the rank's. */
export function stubOf(rank: FakeRank) {
  return {
    steps: () => {
      const call = new EventEmitter();
      const stream = rank.open({
        response: (response) => call.emit('data', response),
        ended: (error) => call.emit('error', error),
      });
      const close = () => stream.close();
      return Object.assign(call, { write: stream.send, end: close, cancel: () => undefined });
    },
  };
}
