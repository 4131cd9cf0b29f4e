import { describe, expect, it } from 'vitest';
import { formatBytes, parseBytes, parseDeviceOption } from '../../../proto/domain/device.ts';

describe('device options', () => {
  it('reads threads, speed, memory and host memory', () => {
    expect(parseDeviceOption('cpu?threads=2&speed=0.4&memory=1.5GiB&host=2MiB')).toEqual({
      kind: 'cpu',
      index: 0,
      multiprocessors: null,
      threads: 2,
      speed: 0.4,
      memoryBytes: 1.5 * 2 ** 30,
      hostBytes: 2 ** 21,
    });
    expect(parseDeviceOption('cpu?host=0').hostBytes).toBe(0);
    expect(parseDeviceOption('cpu')).toEqual({
      kind: 'cpu',
      index: 0,
      multiprocessors: null,
      threads: 1,
      speed: 1,
      memoryBytes: null,
      hostBytes: 0,
    });
  });

  it('reads a GPU and a part of one', () => {
    expect(parseDeviceOption('cuda:3')).toEqual({
      kind: 'cuda',
      index: 3,
      multiprocessors: null,
      threads: 1,
      speed: 1,
      memoryBytes: null,
      hostBytes: 0,
    });
    expect(parseDeviceOption('cuda:0?sm=32&memory=8GiB&host=1GiB')).toMatchObject({
      kind: 'cuda',
      index: 0,
      multiprocessors: 32,
      memoryBytes: 8 * 2 ** 30,
      hostBytes: 2 ** 30,
    });
  });

  it.each([
    ['gpu', "'gpu' is not known"],
    ['cuda', "'cuda' is not known"],
    ['cuda:x', "'cuda:x' is not known"],
    ['cuda:0?sm=0', "device sm: '0' is not a whole number from 1 to 1024"],
    [
      'cuda:0?speed=0.5',
      "device option 'speed' is not known; the options are sm, threads, memory and host",
    ],
    [
      'cpu?sm=8',
      "device option 'sm' is not known; the options are threads, speed, memory and host",
    ],
    ['cpu?threads=0', "device threads: '0' is not a whole number from 1 to 1024"],
    ['cpu?speed=0', "device speed: '0' is not a number from 0.01 to 1"],
    ['cpu?speed=fast', "device speed: 'fast'"],
    ['cpu?threads=1&threads=2', 'device threads is given twice; give it once'],
    ['cpu?host=-1', "device host: '-1' is not a size"],
    ['cpu?memory=much', "device memory: 'much' is not a size"],
    [
      'cpu?cores=2',
      "device option 'cores' is not known; the options are threads, speed, memory and host",
    ],
  ])('refuses %s naming what is wrong', (text, message) => {
    expect(() => parseDeviceOption(text)).toThrow(message);
  });

  it('reads sizes in binary and decimal units and refuses nonsense', () => {
    expect(parseBytes('1KiB', 'x')).toBe(1024);
    expect(parseBytes('2GB', 'x')).toBe(2e9);
    expect(parseBytes('4096', 'x')).toBe(4096);
    for (const bad of ['', '0', '-1GiB', '1 parsec', '1e400', 'GiB']) {
      expect(() => parseBytes(bad, 'x')).toThrow(`x: '${bad}' is not a size`);
    }
  });

  it('prints sizes with two decimals', () => {
    expect(formatBytes(2 ** 30)).toBe('1.00 GiB');
    expect(formatBytes(1536)).toBe('1.50 KiB');
    expect(formatBytes(7)).toBe('7 B');
  });
});
