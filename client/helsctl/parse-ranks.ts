import { type DeployOptions, HelsError } from '../sdk/index.ts';

/** `worker-0=3/2,worker-1=5/1`: head groups and relative weight of the FFN columns per worker. */
export function parseRanks(text: string): NonNullable<DeployOptions['ranks']> {
  return text.split(',').map((part) => {
    const match = /^([^=]+)=(\d+)\/(\d+(?:\.\d+)?)$/.exec(part);
    if (match === null) {
      throw new HelsError(
        'usage',
        `--ranks: '${part}' is not WORKER=HEADGROUPS/FFNWEIGHT, for example worker-0=3/2`,
      );
    }
    return { workerId: match[1] ?? '', headGroups: Number(match[2]), ffnWeight: Number(match[3]) };
  });
}
