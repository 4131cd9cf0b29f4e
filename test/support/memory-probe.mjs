/**
 * Loaded into a daemon by `node --import`: at SIGUSR2 it collects all garbage and writes what is left to HELS_MEMORY_PROBE/PID.json.
 * Without a collection the size of a process says little: V8 lets its heap grow to a bound before it looks for garbage.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

function measure() {
  const { rss, heapUsed, external } = process.memoryUsage();
  const heapResident = getHeapSpaceStatistics().reduce(
    (sum, space) => sum + space.physical_space_size,
    0,
  );
  return { residentBytes: rss, liveBytes: heapUsed + external, nativeBytes: rss - heapResident };
}

const directory = process.env.HELS_MEMORY_PROBE;
if (isMainThread && directory !== undefined) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  process.on('SIGUSR2', () => {
    collect();
    // What the first collection found dead frees memory outside of the heap a turn later.
    setImmediate(() => {
      collect();
      const file = join(directory, `${process.pid}.json`);
      writeFileSync(`${file}.new`, JSON.stringify(measure()));
      renameSync(`${file}.new`, file);
    });
  });
}
