import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import { parseWorkerConfig, plaintextWarnings } from '../../../worker/daemon/config.ts';

const id = ['--id', 'gpu-0'];
const parse = (...parameters: string[]) => parseWorkerConfig([...id, ...parameters], '9.9.9');

function refusal(parameters: string[]): HelsError {
  try {
    parseWorkerConfig(parameters, '9.9.9');
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

beforeEach(() => {
  for (const name of Object.keys(process.env)) {
    if (name.startsWith('HELS_WORKER_')) vi.stubEnv(name, undefined);
  }
});
afterEach(() => vi.unstubAllEnvs());

describe('worker configuration', () => {
  it('has defaults on loopback', () => {
    expect(parse()).toEqual({
      id: 'gpu-0',
      controllers: ['127.0.0.1:7070'],
      listen: { host: '127.0.0.1', port: 0 },
      advertise: '127.0.0.1',
      device: {
        kind: 'cpu',
        index: 0,
        multiprocessors: null,
        threads: 1,
        speed: 1,
        memoryBytes: null,
        hostBytes: 0,
      },
      tls: null,
      logLevel: 'info',
    });
  });

  it('comes from the environment too, and the command line wins', () => {
    vi.stubEnv('HELS_WORKER_ID', 'from-env');
    vi.stubEnv('HELS_WORKER_DEVICE', 'cpu?threads=2&speed=0.5&memory=1GiB');
    vi.stubEnv('HELS_WORKER_CONTROLLER', 'head:7070,next:7070');
    expect(parse().controllers).toEqual(['head:7070', 'next:7070']);
    expect(parseWorkerConfig(['--controller', 'other:1'], '1')).toMatchObject({
      id: 'from-env',
      controllers: ['other:1'],
      device: { threads: 2, speed: 0.5, memoryBytes: 2 ** 30 },
    });
  });

  it('with TLS, also from the environment, it may listen anywhere', () => {
    const open = ['--listen', '10.0.0.1:7071'];
    expect(refusal([...id, ...open]).message).toContain('no --tls-ca, --tls-cert and --tls-key');
    expect(plaintextWarnings(parse(...open, '--insecure')).join()).toContain('NO TLS: 10.0.0.1');
    vi.stubEnv('HELS_WORKER_TLS_CA', 'ca.pem');
    expect(refusal(id).message).toMatch(/^--tls-cert and --tls-key are missing/);
    vi.stubEnv('HELS_WORKER_TLS_CERT', 'own.pem');
    vi.stubEnv('HELS_WORKER_TLS_KEY', 'own.key');
    const config = parse(...open);
    expect(config.tls?.authority).toEqual({ path: 'ca.pem', field: '--tls-ca' });
    expect(plaintextWarnings(config)).toEqual([]);
  });

  it('needs a name', () => {
    expect(refusal([])).toMatchObject({ code: 'usage', message: expect.stringContaining('--id') });
  });

  it.each(['', '-a', 'a b', 'ü', 'a'.repeat(64), 'a/b'])('refuses the name %j', (name) => {
    expect(refusal([`--id=${name}`])).toMatchObject({ code: 'config-invalid', field: '--id' });
  });

  it.each([
    ['--listen', '127.0.0.1'],
    ['--listen', '127.0.0.1:70000'],
    ['--controller', 'head'],
    ['--controller', 'head:0'],
    ['--controller', 'head:1,'],
    ['--controller', 'head:1;next:1'],
    ['--controller', 'http://head:7070'],
  ])('refuses %s %j naming the option and the form', (option, value) => {
    const error = refusal([...id, option, value]);
    expect(error).toMatchObject({ code: 'config-invalid', field: option });
    expect(error.message).toContain('HOST:PORT');
  });

  it.each(['gpu', 'cpu?threads=0', 'cpu?speed=2', 'cpu?memory=much', 'cpu?cores=4'])(
    'refuses the device %s',
    (device) => {
      expect(refusal([...id, '--device', device]).code).toBe('config-invalid');
    },
  );

  it('refuses an unknown option and an unknown log level as usage', () => {
    expect(refusal([...id, '--gpu', '0']).code).toBe('usage');
    expect(refusal([...id, '--log-level', 'loud']).code).toBe('usage');
  });
});

describe('a worker that others can reach', () => {
  const open = ['--listen', '192.168.1.5:7000'];

  it('is refused without TLS, unless --insecure', () => {
    const error = refusal([...id, ...open]);
    expect(error).toMatchObject({ code: 'config-invalid', field: '--listen' });
    expect(error.message).toContain('--insecure');
    expect(parse(...open, '--insecure').advertise).toBe('192.168.1.5');
  });

  it.each([
    ['true', true],
    ['1', true],
    ['false', false],
    ['0', false],
    ['', false],
  ])('with HELS_WORKER_INSECURE=%s: allowed %s', (value, allowed) => {
    vi.stubEnv('HELS_WORKER_INSECURE', value);
    if (allowed) expect(parse(...open).listen.host).toBe('192.168.1.5');
    else expect(refusal([...id, ...open]).field).toBe('--listen');
  });

  it('does not guess what another word for insecure means', () => {
    vi.stubEnv('HELS_WORKER_INSECURE', 'sure');
    expect(refusal([...id, ...open])).toMatchObject({ field: 'HELS_WORKER_INSECURE' });
  });

  it('has to say its name when it listens on every address', () => {
    for (const everywhere of ['0.0.0.0:7000', '[::]:7000']) {
      const error = refusal([...id, '--listen', everywhere, '--insecure']);
      expect(error).toMatchObject({ code: 'config-invalid', field: '--listen' });
      expect(error.message).toContain('--advertise');
      const named = parse('--listen', everywhere, '--insecure', '--advertise', 'gpu-host');
      expect(named.advertise).toBe('gpu-host');
    }
  });

  it.each(['', 'host:7000', '0.0.0.0', '::', '[fd00::1]', 'http://host', 'a b'])(
    'refuses --advertise %j',
    (host) => {
      expect(refusal([...id, `--advertise=${host}`])).toMatchObject({ field: '--advertise' });
    },
  );

  it('may advertise an IPv6 address', () => {
    expect(parse('--advertise', 'fd00::1').advertise).toBe('fd00::1');
  });
});
