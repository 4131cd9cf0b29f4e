/** The load that a deployment is planned for, as command line, gRPC and configuration file may give it: whole numbers from 1 on. */
export const workloadMax = {
  /** Also run at once: each has a slot on every rank, and a row of logits on a GPU. */
  sequences: 1024,
  contextTokens: 2 ** 20,
  /** A step takes as many tokens: its buffers grow with them, and so does the time that it holds up running sequences. */
  prefillChunk: 8192,
  outputTokens: 2 ** 20,
} as const;

/** A deployment may wait for as many. */
export const workersMinMax = 1024;

export type WorkloadField = keyof typeof workloadMax;
export const workloadFields = Object.keys(workloadMax) as readonly WorkloadField[];
