/** What the APIs see of the group being served. */
import { describe, expect, it, vi } from 'vitest';
import { KvPathTracker } from '../../../controller/deployment/kv-path-tracker.ts';
import { SwitchingEngine } from '../../../controller/engine/generation-engine.ts';
import { limits } from '../../../controller/limits.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../../proto/domain/generation.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { hashAnswer } from '../../support/kv-hash-rank.ts';
import {
  answerAll,
  read,
  rebase,
  setUp,
  submit,
  type Test,
  tokensOf,
  turn,
  useFakeTimers,
} from '../../support/step-loop-setting.ts';

useFakeTimers();

let nowMs = 0;
const engineOf = (resumed = (_: number) => {}) =>
  new SwitchingEngine({ nowMs: () => nowMs, unixMs: () => 0 }, resumed);

/** An epoch that serves. */
function attach(
  engine: SwitchingEngine,
  { weights = 'd', ...options }: { weights?: string; ranks?: number; kvBlocks?: number } = {},
  test = setUp(options),
): Test {
  const { kvBlocks, kvBlockTokens, contextTokensMax } = test.limits;
  engine.attach({
    loop: test.loop,
    limits: {
      modelId: 'm',
      modelDigest: 'd',
      quantization: 'none',
      numericsClass: 'exact',
      contextTokensMax,
    },
    weights,
    residency: { kvBlocks, kvBlockTokens, kvParkedBlocks: 0, deviceBlocks: [16, 16], loans: [] },
    kvPaths: new KvPathTracker(),
    workerIds: ['worker-0', 'worker-1'],
    headGroups: [1, 1],
  });
  return test;
}

function attached() {
  const engine = engineOf();
  return { test: attach(engine), engine };
}

describe('a request that comes after the end of an epoch', () => {
  const leaves = new AbortController().signal;

  /** Whether it was over, at the end. */
  async function waits(engine: SwitchingEngine, happens: () => unknown): Promise<boolean[]> {
    const over = [false];
    const wait = engine.awaitReturn('m', leaves).then(() => {
      over[0] = true;
    });
    await turn();
    const before = [...over];
    await happens();
    await wait;
    return [...before, ...over];
  }

  it('waits for the next', async () => {
    const { test, engine } = attached();
    expect(await waits(engine, () => undefined)).toEqual([true, true]);
    engine.detach(test.loop);
    engine.tick(['m']);
    expect(await waits(engine, () => attach(engine))).toEqual([false, true]);
  });

  it('waits no longer when none comes, or the server stops', async () => {
    const { test, engine } = attached();
    engine.detach(test.loop);
    expect(await waits(engine, () => engine.tick([]))).toEqual([false, true]);
    const next = attach(engine);
    engine.detach(next.loop);
    const draining = waits(engine, () => engine.drain(0));
    await expect(draining).rejects.toMatchObject({ code: 'draining' });
    const last = attached();
    await last.engine.drain(0);
    last.engine.detach(last.test.loop);
    await expect(last.engine.awaitReturn('m', leaves)).rejects.toMatchObject({ code: 'draining' });
  });

  it('counts among those that wait for the next', async () => {
    const { test, engine } = attached();
    engine.detach(test.loop);
    const wait = engine.awaitReturn(null, leaves);
    expect(engine.held).toBe(1);
    attach(engine);
    await wait;
    expect(engine.held).toBe(0);
  });
});

describe('the limits of the group', () => {
  it('are unknown while none is served', () => {
    expect(engineOf().limits()).toBeNull();
  });

  it('are those of the next plan from when one with less KV is prepared, so that newcomers wait for it', async () => {
    const { test, engine } = attached();
    expect(engine.limits()?.contextTokensMax).toBe(64);
    submit(test, requestOf('runs', 5, 9));
    test.loop.reserve(20);
    expect(engine.limits()).toMatchObject({ modelId: 'm', contextTokensMax: 20 });
    const boundary = test.loop.pause();
    answerAll(test);
    await boundary;
    // As the API fills in the bound of a request that names none.
    const rest = (engine.limits()?.contextTokensMax ?? 0) - 5;
    const late = read(engine.generate(requestOf('late', 5, rest), new AbortController().signal));
    const { ranks, rebased } = rebase(test, 5, 5);
    answerAll({ ranks });
    await rebased;
    await turn();
    expect(tokensOf(late)).toHaveLength(15);
    expect(engine.limits()?.contextTokensMax).toBe(20);
  });

  it('are the former ones again when the plan is given up', () => {
    const { test, engine } = attached();
    test.loop.reserve(20);
    test.loop.reserve(Number.POSITIVE_INFINITY);
    expect(engine.limits()?.contextTokensMax).toBe(64);
  });
});

describe('a request whose epoch ends', () => {
  const lost = new HelsError('worker-lost', "worker 'worker-1' was lost");

  function running(prompt = 5, maxTokens = 9, more: Partial<GenerationRequest> = {}) {
    const resumed: number[] = [];
    const engine = engineOf((requests) => resumed.push(requests));
    const test = attach(engine);
    const request = { ...requestOf('runs', prompt, maxTokens), ...more };
    const whole = hashAnswer(request.promptTokenIds, maxTokens);
    const caller = new AbortController();
    const events = read(engine.generate(request, caller.signal));
    return { engine, resumed, test, request, whole, caller, events };
  }

  /** The step under way, and the one that its tokens go into. */
  async function answerOnce({ ranks }: Test): Promise<void> {
    for (const rank of ranks) rank.answer();
    await turn();
  }

  const failed = (events: GenerationEvent[]) =>
    events.flatMap((event) => (event.type === 'failed' ? [event.error] : []));

  it('goes on in the next with the tokens that follow, each told once', async () => {
    const { engine, resumed, test, whole, events } = running();
    await answerOnce(test);
    await answerOnce(test);
    await answerOnce(test);
    expect(tokensOf(events)).toEqual(whole.slice(0, 3));
    test.ranks[1]?.break(lost);
    await turn();
    expect(engine.held).toBe(1);
    engine.tick(['m']);
    const next = attach(engine, { ranks: 1 });
    expect(engine.held).toBe(0);
    answerAll(next);
    await turn();
    expect(tokensOf(events)).toEqual(whole);
    expect(events.at(-1)).toEqual({ type: 'finished', reason: 'length' });
    expect(resumed).toEqual([1]);
    expect(next.loop.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
  });

  it('goes on as often as it got a token meanwhile, and twice without', async () => {
    // Three steps to the first token.
    const { engine, test, whole, events } = running(40);
    let serving = test;
    const endAfter = async (steps: number) => {
      for (let step = 0; step < steps; step += 1) await answerOnce(serving);
      serving.ranks[0]?.break(lost);
    };
    for (let epoch = 0; epoch < 5; epoch += 1) {
      await endAfter(3);
      serving = attach(engine);
    }
    await turn();
    expect(tokensOf(events)).toEqual(whole.slice(0, 5));
    for (let epoch = 0; epoch < 2; epoch += 1) {
      await endAfter(1);
      serving = attach(engine);
    }
    await endAfter(1);
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'worker-lost' }]);
    expect(failed(events)[0]?.message).toContain(lost.message);
    expect(engine.held).toBe(0);
  });

  it('keeps its priority', async () => {
    const { engine, test } = running(5, 9, { priority: -3 });
    await answerOnce(test);
    test.ranks[1]?.break(lost);
    const next = setUp();
    const added = vi.spyOn(next.loop.scheduler, 'add');
    attach(engine, {}, next);
    expect(added.mock.calls.map(([{ priority }]) => priority)).toEqual([-3]);
    next.loop.close(lost);
    engine.tick([]);
  });

  it('is not held to have ended epochs whose ranks never answered, whatever the fault', async () => {
    const { engine, test, events } = running();
    let serving = test;
    for (const code of ['internal', 'numeric-range', 'worker-lost', 'internal'] as const) {
      serving.ranks[0]?.break(new HelsError(code, 'the first step failed'));
      await turn();
      expect(engine.held).toBe(1);
      serving = attach(engine);
    }
    expect(events).toEqual([]);
    serving.loop.close(lost);
    engine.tick([]);
  });

  it('is not held to have ended epochs in which no step named it', async () => {
    const { engine, test, events } = running();
    let serving = test;
    for (let epoch = 0; epoch < 5; epoch += 1) {
      serving.loop.close(lost);
      serving = setUp();
      void serving.loop.pause();
      attach(engine, {}, serving);
    }
    await turn();
    expect(events).toEqual([]);
    expect(serving.loop.scheduler.counts.waiting).toBe(1);
    serving.loop.close(lost);
    engine.tick([]);
  });

  it('without a bound of its own gets as many tokens as fit the next', async () => {
    for (const [kvBlocks, tokens] of [
      [12, 28],
      [5, 3],
    ] as const) {
      const { engine, test, whole, events } = running(20, 44, { fillsContext: true });
      for (let step = 0; step < 4; step += 1) await answerOnce(test);
      const given = tokensOf(events).length;
      test.ranks[1]?.break(lost);
      answerAll(attach(engine, { kvBlocks }));
      await turn();
      expect(tokensOf(events)).toEqual(whole.slice(0, Math.max(given, tokens)));
      expect(events.at(-1)).toEqual({ type: 'finished', reason: 'length' });
    }
  });

  it('whose prompt does not fit the next fails, with or without a bound of its own', async () => {
    const { engine, test, events } = running(30, 20, { fillsContext: true });
    test.ranks[1]?.break(lost);
    attach(engine, { kvBlocks: 5 });
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'worker-lost' }]);
    expect(failed(events)[0]?.message).toContain('KV of 20 tokens');
  });

  it('goes on before those that came later, however many wait', async () => {
    const engine = engineOf();
    const test = attach(engine);
    const many = Array.from({ length: 12 }, (_, index) => requestOf(`request-${index}`, 4, 2));
    const submitted = (request: GenerationRequest) =>
      engine.generate(request, new AbortController().signal);
    const streams = many.slice(0, 4).map((request) => read(submitted(request)));
    await answerOnce(test);
    streams.push(...many.slice(4).map((request) => read(submitted(request))));
    test.ranks[0]?.break(lost);
    const next = attach(engine);
    expect(next.loop.scheduler.counts.running + next.loop.scheduler.counts.waiting).toBe(12);
    expect(() => submitted(requestOf('late', 4, 2))).toThrow(/waiting already/);
    const named = next.ranks[0]?.requests.flatMap(({ sequences }) => sequences ?? []) ?? [];
    const ids = named.map((sequence) => (sequence as { requestId: string }).requestId);
    expect([...new Set(ids)]).toEqual(many.slice(0, 4).map(({ requestId }) => requestId));
    answerAll(next);
    await turn();
    for (const [index, request] of many.entries())
      expect(tokensOf(streams[index] ?? [])).toEqual(hashAnswer(request.promptTokenIds, 2));
  });

  it('ends with what ended its epoch when no other is on its way, or another model is', async () => {
    for (const coming of [[], ['another']]) {
      const { engine, test, events } = running();
      test.ranks[1]?.break(lost);
      await turn();
      expect(events).toEqual([]);
      engine.tick(coming);
      await turn();
      expect(failed(events)).toMatchObject([{ code: 'worker-lost' }]);
      expect(failed(events)[0]?.message).toContain(lost.message);
    }
  });

  it('ends as lost whatever its ranks said when they failed', async () => {
    const { engine, test, events } = running();
    test.ranks[1]?.break(new HelsError('deadline-exceeded', 'a sum took too long'));
    engine.tick([]);
    await turn();
    expect(failed(events)).toMatchObject([
      { code: 'worker-lost', message: expect.stringContaining('a sum took too long') },
    ]);
  });

  it('ends after it has waited for as long as it may', async () => {
    const { engine, test, events } = running();
    test.ranks[1]?.break(lost);
    nowMs += limits.heldMsMax - 1;
    engine.tick(['m']);
    expect(engine.held).toBe(1);
    nowMs += 1;
    engine.tick(['m']);
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'worker-lost' }]);
    expect(failed(events)[0]?.message).toContain(lost.message);
  });

  it('ends when the next computes with other weights', async () => {
    const { engine, test, resumed, events } = running();
    test.ranks[1]?.break(lost);
    const next = attach(engine, { weights: 'others' });
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'worker-lost' }]);
    expect(failed(events)[0]?.message).toContain(lost.message);
    expect(next.loop.scheduler.counts.waiting).toBe(0);
    expect(resumed).toEqual([0]);
  });

  it('ends with both reasons when the next has too little room for it', async () => {
    const { engine, test, events } = running(20, 30);
    test.ranks[1]?.break(lost);
    attach(engine, { kvBlocks: 12 });
    await turn();
    const [error] = failed(events);
    expect(error).toMatchObject({ code: 'worker-lost' });
    expect(error?.message).toMatch(/worker-1' was lost; .*KV of 48 tokens/);
  });

  it('ends when the fault would come again, or the server stops', async () => {
    const range = new HelsError('numeric-range', 'layer 3: NaN');
    const broken = running(40);
    await answerOnce(broken.test);
    broken.test.ranks[1]?.break(range);
    await turn();
    expect(failed(broken.events)).toEqual([range]);

    const stopping = running();
    stopping.test.ranks[1]?.break(lost);
    await stopping.engine.drain(0);
    await turn();
    expect(failed(stopping.events)).toMatchObject([{ code: 'draining' }]);
  });

  it('is forgotten when its caller leaves while it waits', async () => {
    const { engine, test, caller, events } = running();
    test.ranks[1]?.break(lost);
    caller.abort();
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'cancelled' }]);
    expect(engine.held).toBe(0);
    expect(attach(engine).loop.scheduler.counts.waiting).toBe(0);
  });

  it('is cancelled in the next epoch as in its own', async () => {
    const { engine, test, caller, events } = running();
    test.ranks[1]?.break(lost);
    const next = attach(engine);
    caller.abort();
    answerAll(next);
    await turn();
    expect(failed(events)).toMatchObject([{ code: 'cancelled' }]);
    expect(next.loop.scheduler.counts).toMatchObject({ running: 0, waiting: 0 });
  });
});
