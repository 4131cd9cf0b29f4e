/** What every adapter accepts: within etcd's own limits, so that a state which one adapter takes is taken by all. Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { Condition, Write } from './store.ts';

export const storeBounds = {
  keyCharactersMax: 512,
  /** Each; etcd takes 128 with ours and the client's own among them. */
  conditionsMax: 64,
  writesMax: 64,
  /** Keys and values of one transaction, UTF-8; etcd takes requests of 1.5 MiB. */
  transactionBytesMax: 2 ** 20,
  /** etcd's shortest lease at its default election timeout; shorter ones would silently live longer. */
  leaseTtlMsMin: 2_000,
  leaseTtlMsMax: 3_600_000,
} as const;

function invalid(field: string, problem: string): HelsError {
  return new HelsError('request-invalid', `${field} ${problem}`, { field });
}

/** Printable ASCII only: its order is the same by characters and by bytes. Throws request-invalid naming `field`. */
export function checkKey(key: string, field: 'key' | 'prefix'): void {
  if (key.length > storeBounds.keyCharactersMax) {
    throw invalid(
      field,
      `has ${key.length} characters; the most allowed is ${storeBounds.keyCharactersMax}`,
    );
  }
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw invalid(field, `is '${key}'; use 1 or more printable ASCII characters without spaces`);
  }
}

/** Throws request-invalid. */
export function checkTransaction(conditions: readonly Condition[], writes: readonly Write[]): void {
  const { conditionsMax, writesMax, transactionBytesMax } = storeBounds;
  if (conditions.length > conditionsMax) {
    throw invalid('conditions', `are ${conditions.length}; the most allowed is ${conditionsMax}`);
  }
  if (writes.length < 1 || writes.length > writesMax) {
    throw invalid('writes', `are ${writes.length}; write 1 to ${writesMax} keys at once`);
  }
  for (const { key, revision } of conditions) {
    checkKey(key, 'key');
    checkRevision(revision);
  }
  const seen = new Set<string>();
  let sizeBytes = 0;
  for (const write of writes) {
    checkKey(write.key, 'key');
    if (seen.has(write.key)) {
      throw invalid('key', `'${write.key}' is written twice in one transaction; write it once`);
    }
    seen.add(write.key);
    sizeBytes += write.key.length + (write.type === 'put' ? Buffer.byteLength(write.value) : 0);
  }
  if (sizeBytes > transactionBytesMax) {
    throw invalid(
      'writes',
      `have ${sizeBytes} bytes; one transaction may have ${transactionBytesMax}`,
    );
  }
}

/** Throws request-invalid. */
export function checkRevision(revision: number): void {
  if (!Number.isSafeInteger(revision) || revision < 0) {
    throw invalid('revision', `is ${revision}; it is a whole number, 0 or more`);
  }
}

/** Throws request-invalid. */
export function checkLeaseTtl(ttlMs: number): void {
  const { leaseTtlMsMin, leaseTtlMsMax } = storeBounds;
  if (!(ttlMs >= leaseTtlMsMin && ttlMs <= leaseTtlMsMax)) {
    throw invalid('ttlMs', `is ${ttlMs}; it is ${leaseTtlMsMin} to ${leaseTtlMsMax} ms`);
  }
}
