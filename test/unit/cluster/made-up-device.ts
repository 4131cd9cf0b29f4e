/** What a worker says of its device when it registers. */
export const madeUpDevice = {
  kind: 'cpu',
  name: 'test processor',
  threads: 1,
  speed: 1,
  emulated: false,
  memoryBytes: 2 ** 30,
  memoryFreeBytes: 2 ** 30,
  hostMemoryBytes: 0,
  implementation: 'made up',
};
