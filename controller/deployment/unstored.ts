/** What people are told while the store does not take what they asked for: it holds here, and no other controller would know of it. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { PhaseChannel } from './phase-channel.ts';

/** `what`: for people, as in "it serves". */
export function unstoredMessage(what: string, { message }: HelsError): string {
  return `${what}, but cannot be stored (${message}) and would not outlast this controller; storing is tried again until it works`;
}

/** Whoever deployed; null: it is stored. */
export function tellUnstored(channel: PhaseChannel<unknown>, failure: HelsError | null): void {
  if (failure !== null) channel.progress('storing', unstoredMessage('it serves', failure), 0);
}

/** An undeploy, whose answer has no room for a remark; null: it is stored. */
export function refuseUnstored(modelId: string, failure: HelsError | null): void {
  if (failure === null) return;
  throw new HelsError(
    'internal',
    `model '${modelId}' is undeployed, but that cannot be stored (${failure.message}): a controller that started now would bring it back; storing is tried again until it works`,
    { cause: failure },
  );
}
