import { afterEach, describe, expect, it, vi } from 'vitest';
import { parseWorkerConfig } from '../../../worker/daemon/config.ts';

function parseWith(environment: Record<string, string>, ...parameters: string[]) {
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
  return parseWorkerConfig(['--id', 'w', ...parameters], '0');
}

afterEach(() => {
  vi.unstubAllEnvs();
});

describe('HELS_WORKER_INSECURE', () => {
  it.each(['false', '0', 'no'])("'%s' keeps the service on loopback", (value) => {
    const environment = { HELS_WORKER_INSECURE: value, HELS_WORKER_LISTEN: '10.0.0.2:7071' };
    expect(() => parseWith(environment)).toThrow(/not a loopback address/);
  });

  it.each(['true', '1', 'yes'])("'%s' allows another address", (value) => {
    const environment = { HELS_WORKER_INSECURE: value, HELS_WORKER_LISTEN: '10.0.0.2:7071' };
    expect(parseWith(environment).listen).toEqual({ host: '10.0.0.2', port: 7071 });
  });

  it.each(['maybe', ''])("'%s' is refused", (value) => {
    expect(() => parseWith({ HELS_WORKER_INSECURE: value })).toThrow(
      `--insecure is '${value}'; write true or false`,
    );
  });

  it('is on as a bare option of the command line', () => {
    expect(parseWith({}, '--insecure', '--listen', '10.0.0.2:0').listen.host).toBe('10.0.0.2');
  });
});

describe('--advertise', () => {
  it.each(['', 'host:7071', 'two words', '[::1]'])("'%s' is refused", (value) => {
    expect(() => parseWith({ HELS_WORKER_ADVERTISE: value })).toThrow(
      `--advertise is '${value}'; write a host name or an address, without a port`,
    );
  });

  it.each(['gpu-host', 'gpu-host.example', '10.0.0.2', 'fd00::2'])("'%s' is taken", (value) => {
    expect(parseWith({ HELS_WORKER_ADVERTISE: value }).advertise).toBe(value);
  });
});
