/** Latency lines for people to look at: of the registered workers and a model's shapes, measured anew when asked for. */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { ProfileReport } from '../../proto/gen/hels/v1/ProfileReport.ts';
import type { ProfileWorkersEvent } from '../../proto/gen/hels/v1/ProfileWorkersEvent.ts';
import type { Group } from '../cluster/group.ts';
import type { Coordinator } from './coordinator.ts';
import { smallestSizes } from './engine-sizes.ts';
import type { MeasurementStore } from './measurement-store.ts';
import { PhaseChannel } from './phase-channel.ts';
import { probeLinks } from './probe-links.ts';
import { profileReportOf } from './profile-report.ts';
import { type MeasuringPorts, profileWorkers } from './profile-workers.ts';
import { readServedFiles } from './served-files.ts';

export interface ProfileServiceOptions {
  term: number;
  coordinator: Pick<Coordinator, 'group' | 'serving' | 'served' | 'availableWorkers'>;
  store: MeasurementStore;
  clock: Clock;
}

const comingUp: Partial<Record<Group['phase'], string>> = {
  deploying: 'a deployment',
  replanning: 'another plan',
};

function refuseWhileComingUp({ phase, detail }: Group): void {
  const what = comingUp[phase];
  // One that waits for workers, as long as it takes, measures nothing yet.
  if (what === undefined || detail === 'waiting') return;
  throw new HelsError('not-ready', `${what} is coming up; profile the workers once it serves`);
}

export class ProfileService {
  readonly #options: ProfileServiceOptions;

  constructor(options: ProfileServiceOptions) {
    this.#options = options;
  }

  /**
   * An empty `modelPath` means the model being served; throws not-ready without one, without workers, and while a deployment or another
   * plan comes up, unless it waits for workers: that may measure the workers itself, and the newest run ends those before.
   */
  async *run(
    modelPath: string,
    refresh: boolean,
    signal: AbortSignal,
  ): AsyncGenerator<ProfileWorkersEvent, void, undefined> {
    const channel = new PhaseChannel<ProfileReport>();
    signal.addEventListener(
      'abort',
      () => channel.failed(new HelsError('cancelled', 'the caller of profile went away')),
      { once: true },
    );
    this.#measure(modelPath, refresh, channel, signal).then(
      (report) => channel.ready(report),
      (error: unknown) => channel.failed(error),
    );
    yield* channel;
  }

  async #measure(
    modelPath: string,
    refresh: boolean,
    channel: PhaseChannel<ProfileReport>,
    signal: AbortSignal,
  ): Promise<ProfileReport> {
    const { term, coordinator, store, clock } = this.#options;
    const { modelId, model } = await this.#modelOf(modelPath);
    refuseWhileComingUp(coordinator.group);
    const workers = coordinator.availableWorkers().sort((a, b) => (a.id < b.id ? -1 : 1));
    if (workers.length === 0) throw new HelsError('not-ready', 'no worker is registered');
    const served = modelPath === '' ? coordinator.serving : null;
    const options = {
      model,
      ...(served?.loaded.profiledSizes ?? smallestSizes),
      fence: { term, epoch: coordinator.group.epoch },
      refresh,
    };
    const ports: MeasuringPorts = {
      store,
      nowMs: () => clock.nowMs(),
      unixMs: () => clock.unixMs(),
    };
    const progress = (message: string, fraction: number) => {
      // Thrown to whoever measures, which ends its stream: nobody wants the rest.
      signal.throwIfAborted();
      channel.progress('profiling', message, fraction);
    };
    const runs = await profileWorkers(workers, options, ports, progress);
    const links = await probeLinks(workers, options, ports, progress);
    return profileReportOf(modelId, workers, runs, links);
  }

  async #modelOf(modelPath: string): Promise<{ modelId: string; model: ModelSpec }> {
    if (modelPath === '') {
      const { served } = this.#options.coordinator;
      if (served !== null) return { modelId: served.modelId, model: served.spec };
      throw new HelsError('not-ready', 'no model is being served; name one with --model DIR');
    }
    const files = await readServedFiles(modelPath, '');
    await files.text.close();
    return { modelId: files.modelId, model: files.spec };
  }
}
