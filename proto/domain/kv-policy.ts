/**
 * What a deployment does about KV that runs out (docs/serving.md).
 *
 *   evict     the newest running sequence gives way and loses its end, as far as room is needed: parked or computed again
 *   replay    it loses all of its KV at once and is computed again from its beginning
 *   reserve   a sequence starts only when prompt + max_tokens fit beside what is set aside for those that run: nobody gives way
 *   slots     the same with the workload's context length, or a multiple, set aside for each
 *
 * The last three are what others do; they are here to be measured against.
 */
export const kvPolicies = ['evict', 'replay', 'reserve', 'slots'] as const;
export type KvPolicy = (typeof kvPolicies)[number];

/** Absent or empty: evict. Null: no policy has that name. */
export function kvPolicyOf(name: string | undefined): KvPolicy | null {
  if (name === undefined || name === '') return 'evict';
  return kvPolicies.find((policy) => policy === name) ?? null;
}
