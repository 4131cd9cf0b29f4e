/**
 * One answer over as many streams as it takes. A stream that breaks is asked for again with the tokens that it has given: the controller
 * reads them again, text held back and stop strings included, and goes on behind them.
 */
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import type { GenerateEvent__Output } from '../../proto/gen/hels/v1/GenerateEvent.ts';
import type { GenerateRequest } from '../../proto/gen/hels/v1/GenerateRequest.ts';
import type { GenerateStarted__Output } from '../../proto/gen/hels/v1/GenerateStarted.ts';
import type { HelsClient as HelsStub } from '../../proto/gen/hels/v1/Hels.ts';
import type { Peers } from '../../proto/rpc/peers.ts';
import { Attempts, type Patience } from './attempts.ts';
import { checkGenerateOptions, checkInput } from './request-checks.ts';
import type { CallOptions, GenerateEvent, GenerateInput, GenerateOptions } from './types.ts';

/** The controller is gone, going, or has just come; overloaded, when every stream of the one before comes at once. */
const breaks: ReadonlySet<ErrorCode> = new Set([
  'unreachable',
  'draining',
  'not-ready',
  'overloaded',
]);

const resumeForMsDefault = 60_000;

type Delta = Extract<GenerateEvent, { type: 'delta' }>;

/** Throws what ended the answer, once it cannot go on, and what it cannot begin for. */
export async function* generateOver(
  peers: Peers<HelsStub>,
  input: GenerateInput,
  options: GenerateOptions,
  call: CallOptions,
): AsyncGenerator<GenerateEvent, void, undefined> {
  checkInput(input);
  checkGenerateOptions(options);
  const attempts = new Attempts(peers, call, Infinity);
  const patience = { codes: breaks, forMs: options.resumeForMs ?? resumeForMsDefault };
  const answer = new Answer(generateRequest(input, options));
  for (;;) {
    try {
      const messages = attempts.stream<GenerateEvent__Output>((stub, call) =>
        stub.generate(answer.request, call),
      );
      for await (const message of messages) {
        if ((message.delta?.tokenIds.length ?? 0) > 0) attempts.progressed();
        yield* answer.take(message);
      }
      return;
    } catch (error) {
      await attempts.again(error, patienceOf(answer, attempts, patience));
    }
  }
}

function patienceOf(answer: Answer, attempts: Attempts, patience: Patience): Patience {
  return answer.hasBegun ? patience : attempts.takeover;
}

/** What an answer has given so far. */
class Answer {
  readonly #asked: GenerateRequest;
  readonly #tokenIds: number[];
  #started: GenerateStarted__Output | null = null;
  /** Text without tokens ends an answer, and comes again if `finished` does not follow. */
  #ending: Delta | null = null;

  constructor(asked: GenerateRequest) {
    this.#asked = asked;
    this.#tokenIds = [...(asked.resume?.tokenIds ?? [])];
  }

  get hasBegun(): boolean {
    return this.#started !== null;
  }

  /** For the rest. The prompt is sent as it came: an answer in a chat begins with another space than one that continues tokens. */
  get request(): GenerateRequest {
    if (this.#started === null) return this.#asked;
    const { seed } = this.#started;
    return { ...this.#asked, resume: { tokenIds: this.#tokenIds, seed } };
  }

  *take(message: GenerateEvent__Output): Generator<GenerateEvent, void, undefined> {
    const { started, delta, finished } = message;
    if (started && this.#started === null) {
      this.#started = started;
      yield { type: 'started', ...started };
    } else if (started && this.#started !== null) {
      this.#ending = null;
      refuseAnother(this.#started, started);
    } else if (delta) {
      this.#tokenIds.push(...delta.tokenIds);
      const event: Delta = { type: 'delta', ...delta };
      if (delta.tokenIds.length === 0) this.#ending = event;
      else yield event;
    } else if (finished) {
      if (this.#ending !== null) yield this.#ending;
      yield { type: 'finished', ...finished };
    }
  }
}

/** Throws digest-mismatch when the rest would not be that of the answer which began. */
function refuseAnother(began: GenerateStarted__Output, now: GenerateStarted__Output): void {
  const differing = differenceOf(began, now);
  if (differing === null) return;
  throw new HelsError(
    'digest-mismatch',
    `the answer cannot go on: it began with ${differing}; ask again from the start`,
  );
}

function differenceOf(began: GenerateStarted__Output, now: GenerateStarted__Output): string | null {
  const modelOf = ({ modelDigest, quantization, numericsClass }: GenerateStarted__Output) =>
    `${modelDigest} (quantization ${quantization}, numerics ${numericsClass === 'fast' ? 'fast' : 'exact'})`;
  const [model, other] = [modelOf(began), modelOf(now)];
  if (model !== other) return `model ${model}, and what is served now is ${other}`;
  if (began.seed !== now.seed) return `seed ${began.seed}, and now has ${now.seed}`;
  const prompt = began.promptTokenIds.join();
  if (prompt !== now.promptTokenIds.join()) return 'other prompt tokens than it has now';
  return null;
}

function generateRequest(input: GenerateInput, options: GenerateOptions): GenerateRequest {
  return {
    ...('prompt' in input ? { prompt: input.prompt } : {}),
    ...('promptTokenIds' in input ? { promptTokenIds: { ids: input.promptTokenIds } } : {}),
    ...('messages' in input ? { messages: { messages: input.messages } } : {}),
    model: options.model ?? '',
    maxTokens: options.maxTokens ?? 0,
    minTokens: options.minTokens ?? 0,
    stop: options.stop ?? [],
    stopTokenIds: options.stopTokenIds ?? [],
    seedGiven: options.seed !== undefined,
    ignoreEndOfText: options.ignoreEndOfText ?? false,
    resume: options.resume ?? null,
    cacheSalt: options.cacheSalt ?? '',
    noPrefixCache: options.prefixCache === false,
    priority: options.priority ?? 0,
    sampling: {
      temperature: options.temperature ?? 0,
      topP: options.topP ?? 1,
      topK: options.topK ?? 0,
      seed: options.seed ?? 0,
      logprobs: options.logprobs ?? -1,
    },
  };
}
