/** Every key of the store. */
const root = '/hels/v1';

export const keys = {
  election: `${root}/election`,
  /** What a person asked to be served; absent when nothing is. */
  deployment: `${root}/deployment`,
  plansPrefix: `${root}/plans/`,
  plan: (epoch: number) => `${root}/plans/${String(epoch).padStart(16, '0')}`,
} as const;
