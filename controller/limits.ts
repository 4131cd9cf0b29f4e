/**
 * Every bound of the controller's edges, and the relations between them. What comes in has a bound in bytes before any of it is decoded,
 * and a request is within all others before it is queued or computed.
 */
import { workloadMax } from '../proto/domain/workload.ts';

const MiB = 2 ** 20;

export const limits = {
  /** One HTTP request body. */
  httpBodyBytesMax: 8 * MiB,
  /** Of all bodies that are being received, beyond the first bytes of each: as many connections as there may be could hold 32 GiB. */
  httpBodiesBytesMax: 256 * MiB,
  /** So much of a body counts not among them: a short request is heard however many send long ones. */
  httpShortBodyBytes: 64 * 1024,
  /** Lists and objects within each other in a body: what looks at them recurses. */
  jsonNestingMax: 100,
  /** One message to the gRPC port; the longest request is below. */
  grpcMessageBytesMax: 6.25 * MiB,
  /** Of one such message, those of a chat included; token ids that are packed, as they are by default, count as one. */
  grpcMessageFieldsMax: 2 ** 16,
  httpHeaderBytesMax: 16 * 1024,
  httpConnectionsMax: 4096,
  /** Names of headers that a page of another origin asks to send, all together. */
  corsHeadersCharactersMax: 1024,
  /** From the first byte of a request to its last header. */
  httpHeadersTimeoutMs: 10_000,
  /** From the first byte of a request to the last of its body. */
  httpBodyTimeoutMs: 60_000,
  /** An idle connection; longer than the 60 s after which common proxies drop theirs, so that they close first. */
  httpKeepAliveTimeoutMs: 65_000,
  /** A client, of HTTP or gRPC, that reads nothing of its answer for this long is gone. */
  writeStallTimeoutMs: 60_000,
  /** Of an answer that is streamed; well below the 60 s after which common proxies drop a silent connection. */
  streamQuietMsMax: 15_000,
  /** After a refused body: how long its rest is read and thrown away, so that the client sees the answer, not a reset. */
  httpDiscardTimeoutMs: 2_000,
  /** After the drain deadline: how long requests that were ended have to say so. */
  httpLastWordsTimeoutMs: 1_000,
  /** One generation, waiting included. */
  requestDeadlineMs: 30 * 60_000,
  /** A request whose workers were lost, until others serve the same model: loading takes minutes for the largest. */
  heldMsMax: 5 * 60_000,
  /** Epochs in a row that may compute a request until their end without a token for it. */
  barrenEpochsMax: 2,
  /** A request that comes while such an epoch is on its way, from the end of the one before; well below the 60 s after which common proxies drop a silent connection. */
  returnWaitMsMax: 30_000,
  returnWaitingMax: 512,
  /** While a plan changes: /ready stays true so long after the last step of the one before. What takes longer, load balancers are to know of. */
  silentReadyMsMax: 30_000,
  /** What a refused client is told to wait. */
  retryAfterSeconds: 1,

  /** Text of one prompt, or of a chat's messages together, UTF-16 units. */
  promptCharactersMax: MiB,
  chatMessagesMax: 4096,
  contentPartsMax: 256,
  /** Answers of one request: prompts times n. */
  choicesMax: 64,
  stopStringsMax: 4,
  stopCharactersMax: 256,
  stopTokenIdsMax: 64,
  logprobsMax: 20,
  temperatureMax: 2,
  /** Below this a temperature means greedy: logits divided by it would leave the range of f32. */
  temperatureMin: 1e-3,
  modelIdCharactersMax: 256,
  cacheSaltCharactersMax: 256,
  /** Of a request's priority, either side of 0. */
  priorityMost: 1000,

  /** A file of a model's text side, except tokenizer.json. */
  modelTextFileBytesMax: 4 * MiB,
  tokenizerFileBytesMax: 256 * MiB,
  chatTemplateCharactersMax: MiB,
  /** Rendering or encoding one prompt; a template that runs longer is stopped with its thread. */
  textJobTimeoutMs: 10_000,
  /** Reading tokenizer.json and building the tables of the tokenizer. */
  textThreadStartTimeoutMs: 60_000,
  textJobsWaitingMax: 512,
  textThreadHeapMiB: 2048,
} as const;

function assertRelation(holds: boolean, relation: string): void {
  if (!holds) throw new Error(`controller/limits.ts: ${relation} does not hold`);
}

// A body can carry the longest prompt even when JSON writes each character as \uXXXX, and leave room for the rest.
assertRelation(
  limits.httpBodyBytesMax > 6 * limits.promptCharactersMax,
  'httpBodyBytesMax > 6 * promptCharactersMax',
);
/** UTF-8 of one UTF-16 unit; also the id of a token, below 2^21. */
const grpcUnitBytesMax = 3;
/** Of a chat's message beside its text: its role, tags and lengths. */
const grpcChatMessageBytesMax = 24;
// Its text, all messages that a chat may have, and, going on after a break, as many tokens as the longest context that is planned for.
const grpcLongestRequestBytes =
  grpcUnitBytesMax * (limits.promptCharactersMax + workloadMax.contextTokens) +
  grpcChatMessageBytesMax * limits.chatMessagesMax;
assertRelation(
  // The rest: stop texts, salt, ids of stop tokens and numbers.
  limits.grpcMessageBytesMax >= grpcLongestRequestBytes + MiB / 16,
  'grpcMessageBytesMax >= the longest request that the other bounds allow',
);
// A chat of one message too many is refused by the name of the field.
assertRelation(
  limits.grpcMessageFieldsMax > 2 * limits.chatMessagesMax,
  'grpcMessageFieldsMax > 2 * chatMessagesMax',
);
assertRelation(
  limits.httpBodiesBytesMax >= limits.httpBodyBytesMax,
  'httpBodiesBytesMax >= httpBodyBytesMax',
);
// The uncounted beginnings of bodies are no more than those that count.
assertRelation(
  limits.httpConnectionsMax * limits.httpShortBodyBytes <= limits.httpBodiesBytesMax,
  'httpConnectionsMax * httpShortBodyBytes <= httpBodiesBytesMax',
);
assertRelation(
  limits.corsHeadersCharactersMax < limits.httpHeaderBytesMax,
  'corsHeadersCharactersMax < httpHeaderBytesMax',
);
assertRelation(
  limits.httpHeadersTimeoutMs <= limits.httpBodyTimeoutMs,
  'httpHeadersTimeoutMs <= httpBodyTimeoutMs',
);
// One client alone cannot fill the text queue with the choices of one request (each prompt is one job or, for a chat, two).
assertRelation(
  limits.textJobsWaitingMax >= 2 * limits.choicesMax,
  'textJobsWaitingMax >= 2 * choicesMax',
);
assertRelation(
  limits.textJobTimeoutMs < limits.requestDeadlineMs,
  'textJobTimeoutMs < requestDeadlineMs',
);
assertRelation(limits.heldMsMax < limits.requestDeadlineMs, 'heldMsMax < requestDeadlineMs');
assertRelation(
  limits.writeStallTimeoutMs < limits.requestDeadlineMs,
  'writeStallTimeoutMs < requestDeadlineMs',
);
assertRelation(
  limits.chatTemplateCharactersMax <= limits.modelTextFileBytesMax,
  'chatTemplateCharactersMax <= modelTextFileBytesMax',
);
assertRelation(limits.temperatureMin < limits.temperatureMax, 'temperatureMin < temperatureMax');
