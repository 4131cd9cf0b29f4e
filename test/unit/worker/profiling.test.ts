import { describe, expect, it } from 'vitest';
import type { ProfileRequest__Output } from '../../../proto/gen/hels/v1/ProfileRequest.ts';
import { type ProfilingPorts, profiler } from '../../../worker/daemon/profiling.ts';

const point = {
  prefill: false,
  tokens: 1,
  contextTokens: 64,
  headGroups: 1,
  ffnColumns: 16,
  vocabRows: 0,
};

function request(epoch: number, points = 3): ProfileRequest__Output {
  const model = {
    naming: 'llama',
    normalization: 'rms',
    activation: 'silu',
    position: 'rope',
    ropeScaling: 'none',
    weightType: 'f32',
  };
  return {
    fence: { term: 1, epoch },
    model,
    points: Array.from({ length: points }, () => point),
    repetitions: 1,
  } as unknown as ProfileRequest__Output;
}

/** A device whose measurements end when the test says so; counts how many run at once. */
function fakeDevice() {
  const pending: (() => void)[] = [];
  let running = 0;
  let runningMax = 0;
  const ports: ProfilingPorts = {
    refuseProfile: () => undefined,
    describeDevice: () => ({ threads: 1, speed: 1, memoryBytes: 1e9, memoryFreeBytes: 1e9 }),
    profileStep: () => {
      running += 1;
      runningMax = Math.max(runningMax, running);
      return new Promise((resolve) => {
        pending.push(() => {
          running -= 1;
          resolve(0.001);
        });
      });
    },
  };
  return {
    ports,
    runningMax: () => runningMax,
    /** Ends measurements as they come until there are no more. */
    async run() {
      for (let idle = 0; idle < 5; ) {
        await new Promise((resolve) => setImmediate(resolve));
        const end = pending.shift();
        idle = end === undefined ? idle + 1 : 0;
        end?.();
      }
    },
  };
}

const never = () => false;

describe('a profiling run', () => {
  it('measures every point in order', async () => {
    const device = fakeDevice();
    const events: number[] = [];
    const done = profiler(device.ports)(request(1), ({ index }) => events.push(index ?? -1), never);
    await device.run();
    await done;
    expect(events).toEqual([0, 1, 2]);
  });

  it('ends when a newer one comes, which then has the device for itself', async () => {
    const device = fakeDevice();
    const profile = profiler(device.ports);
    const older = profile(request(1), () => undefined, never);
    const expectation = expect(older).rejects.toMatchObject({ code: 'stale-fence' });
    const events: number[] = [];
    const newer = profile(request(2), ({ index }) => events.push(index ?? -1), never);
    await device.run();
    await expectation;
    await newer;
    expect(events).toEqual([0, 1, 2]);
    expect(device.runningMax()).toBe(1);
  });

  it('is let go by a chain of newer ones: only the newest measures', async () => {
    const device = fakeDevice();
    const profile = profiler(device.ports);
    const runs = [1, 2, 3].map((epoch) => profile(request(epoch), () => undefined, never));
    const settled = Promise.allSettled(runs);
    await device.run();
    expect((await settled).map(({ status }) => status)).toEqual([
      'rejected',
      'rejected',
      'fulfilled',
    ]);
    expect(device.runningMax()).toBe(1);
  });

  it('that is refused does not disturb the one under way', async () => {
    const device = fakeDevice();
    const profile = profiler(device.ports);
    const events: number[] = [];
    const running = profile(request(2), ({ index }) => events.push(index ?? -1), never);
    device.ports.refuseProfile = ({ epoch }) => {
      if (epoch < 2) throw new Error('older');
    };
    await expect(profile(request(1), () => undefined, never)).rejects.toThrow('older');
    await device.run();
    await running;
    expect(events).toEqual([0, 1, 2]);
  });

  it('stops when its caller has gone', async () => {
    const device = fakeDevice();
    const events: number[] = [];
    const gone = () => events.length > 0;
    const done = profiler(device.ports)(request(1), ({ index }) => events.push(index ?? -1), gone);
    await device.run();
    await done;
    expect(events).toEqual([0]);
  });
});
