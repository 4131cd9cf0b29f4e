/** How much KV a load would use at its peak if there were room for all of it: the real scheduler, without a clock. */
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import type { TracedRequest } from './trace-slice.ts';

const blockTokens = 16;

/** Tokens, whole blocks, of `streams` streams that take the requests in turn, one after another. */
export function peakDemandTokens(requests: readonly TracedRequest[], streams: number): number {
  const lengths = requests.map((one) => one.promptTokenIds.length + one.maxTokens);
  const all = lengths.reduce((sum, length) => sum + length + blockTokens, 0);
  const scheduler = new Scheduler({
    kvBlocks: Math.ceil(all / blockTokens),
    kvBlockTokens: blockTokens,
    stepTokensMax: 512,
    sequencesMax: 64,
    contextTokensMax: Math.max(...lengths),
    waitingMax: requests.length,
  });
  let next = 0;
  const begin = () => {
    const request = requests[next];
    if (request === undefined) return;
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 };
    const rest = { sampling, stopTokenIds: [], prefixCache: null };
    scheduler.add({ ...request, ...rest, requestId: String(next) });
    next += 1;
  };
  for (let stream = 0; stream < streams; stream += 1) begin();
  let peak = 0;
  for (;;) {
    const plan = scheduler.schedule();
    if (plan === null) return peak * blockTokens;
    peak = Math.max(peak, scheduler.counts.kvBlocksUsed);
    const sampled = plan.sequences.flatMap(({ slot, sampling }) =>
      sampling === null ? [] : { slot, tokenId: 0 },
    );
    for (const event of scheduler.apply(plan.step, sampled)) if (event.type === 'finished') begin();
  }
}

/** The fewest streams whose peak demand is at least `tokens`. */
export function streamsFor(requests: readonly TracedRequest[], tokens: number): number {
  for (let streams = 1; streams < requests.length; streams += 1) {
    if (peakDemandTokens(requests, streams) >= tokens) return streams;
  }
  return requests.length;
}
