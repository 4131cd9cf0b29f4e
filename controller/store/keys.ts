/** Every key of the store. */
const root = '/hels/v1';

export const keys = {
  election: `${root}/election`,
  /** What a person asked to be served; absent when nothing is. */
  deployment: `${root}/deployment`,
  /** Names of the workers that no plan may use. */
  drained: `${root}/drained`,
  /** What was measured on a kind of device for a model's shapes; by digest of what it holds for. */
  profile: (digest: string) => `${root}/profiles/${digest}`,
  /** What the collectives of a set of workers cost; by digest of what it holds for. */
  link: (digest: string) => `${root}/links/${digest}`,
  plansPrefix: `${root}/plans/`,
  plan: (epoch: number) => `${root}/plans/${String(epoch).padStart(16, '0')}`,
} as const;
