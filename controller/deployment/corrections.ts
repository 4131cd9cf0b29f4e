/** How the devices of a plan differ in service from their profiles, and the devices so corrected. */
import { refineLines } from '../profiler/online.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';

/** What a trial (trial.ts) has learnt. */
export interface Corrections {
  /** Of all devices of the trial: over others it says nothing. */
  readonly workerIds: readonly string[];
  /** Decode seconds in service / by the lines, by worker id; 1 for who is not in it. */
  readonly ratios: ReadonlyMap<string, number>;
  /** Seconds of a step that neither kernels nor waiting for slower ranks nor the probed links explain. */
  readonly linkSeconds: number;
  /** Workers that the next plan must do without. */
  readonly leftOut: ReadonlySet<string>;
  /** For people. */
  readonly reason: string;
}

/** What is done about it. */
export type Choice = Pick<Corrections, 'ratios' | 'linkSeconds' | 'leftOut'>;
type CorrectedDevice = Pick<ProfiledDevice, 'id' | 'decode' | 'link' | 'exchangeLink'>;

/** Those that are not left out, slower by their ratios and with dearer links; exchanges of lent KV stay priced as probed. */
export function corrected<Device extends CorrectedDevice>(
  devices: readonly Device[],
  { ratios, linkSeconds, leftOut }: Choice,
): Device[] {
  return devices
    .filter(({ id }) => !leftOut.has(id))
    .map((device) => ({
      ...device,
      decode: refineLines(device.decode, ratios.get(device.id) ?? 1),
      link: { ...device.link, constant: device.link.constant + linkSeconds },
      ...(linkSeconds === 0 ? {} : { exchangeLink: device.exchangeLink ?? device.link }),
    }));
}

/** null when the trial was over other devices, or there was none. */
export function applicable(
  devices: readonly Pick<ProfiledDevice, 'id'>[],
  corrections: Corrections | null,
): Corrections | null {
  const known = new Set(corrections?.workerIds);
  const same = devices.length === known.size && devices.every(({ id }) => known.has(id));
  return same ? corrections : null;
}

/** The devices as the trial corrects them; as they are when it was over other ones. */
export function correctDevices(
  devices: readonly ProfiledDevice[],
  corrections: Corrections | null,
): ProfiledDevice[] {
  const choice = applicable(devices, corrections);
  return choice === null ? [...devices] : corrected(devices, choice);
}
