import type { CommanderError } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseControllerConfig, plaintextWarnings } from '../../../controller/config.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

const file = 'hels.yaml';

function parse(parameters: string[], yaml?: string) {
  const all = yaml === undefined ? parameters : [...parameters, '--config', file];
  return parseControllerConfig(all, '9.9.9', () => yaml ?? '');
}

function refusal(parameters: string[], yaml?: string): HelsError {
  try {
    parse(parameters, yaml);
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

/** A path that the file gives. */
const inFile = (name: string, path: string) => ({ path, field: `${file}: ${name}` });
const ourTls = ['--tls-ca', 'ca.pem', '--tls-cert', 'own.pem', '--tls-key', 'own.key'];

beforeEach(() => vi.stubEnv('HELS_API_KEY', undefined));
afterEach(() => vi.unstubAllEnvs());

describe('controller configuration', () => {
  it('has defaults on loopback with the embedded store', () => {
    expect(parse([])).toEqual({
      http: { host: '127.0.0.1', port: 8080 },
      grpc: { host: '127.0.0.1', port: 7070 },
      dataDirectory: './hels-data',
      etcd: [],
      etcdTls: { authority: null, client: null },
      httpTls: null,
      tls: null,
      logLevel: 'info',
      apiKey: null,
      corsOrigins: [],
      deployment: null,
    });
  });

  it('reads every setting of the file, and the command line wins over it', () => {
    const yaml = `
http: 127.0.0.1:1
grpc: '[::1]:2'
dataDir: /var/lib/hels
etcd: ["https://one:2379", "https://[::1]:2379"]
etcdCa: /tls/etcd-ca.pem
etcdCert: /tls/etcd.pem
etcdKey: /tls/etcd.key
httpTlsCert: /tls/http.pem
httpTlsKey: /tls/http.key
tlsCa: /tls/ca.pem
tlsCert: /tls/controller.pem
tlsKey: /tls/controller.key
logLevel: debug
apiKey: twelve chars
corsOrigins: [https://app.example, 'null', 'file://']
deployment: { model: /models/m, policy: optimal, workers: 3, prefixCache: false }
`;
    expect(parse([], yaml)).toEqual({
      http: { host: '127.0.0.1', port: 1 },
      grpc: { host: '::1', port: 2 },
      dataDirectory: '/var/lib/hels',
      etcd: ['https://one:2379', 'https://[::1]:2379'],
      etcdTls: {
        authority: inFile('etcdCa', '/tls/etcd-ca.pem'),
        client: {
          certificate: inFile('etcdCert', '/tls/etcd.pem'),
          key: inFile('etcdKey', '/tls/etcd.key'),
        },
      },
      httpTls: {
        certificate: inFile('httpTlsCert', '/tls/http.pem'),
        key: inFile('httpTlsKey', '/tls/http.key'),
      },
      tls: {
        authority: inFile('tlsCa', '/tls/ca.pem'),
        certificate: inFile('tlsCert', '/tls/controller.pem'),
        key: inFile('tlsKey', '/tls/controller.key'),
      },
      logLevel: 'debug',
      apiKey: 'twelve chars',
      corsOrigins: ['https://app.example', 'null', 'file://'],
      deployment: {
        model: '/models/m',
        name: '',
        policy: 'optimal',
        numerics: 'exact',
        quantization: 'auto',
        workers: 3,
        prefixCache: false,
        allowRemoteKv: false,
        kvPolicy: 'evict',
        autoReplan: true,
      },
    });
    const options = [
      ...['--http', 'localhost:9', '--etcd', 'https://a:1,https://b:2', '--data-dir', 'd'],
      ...['--tls-key', 'other.key'],
    ];
    expect(parse([...options, '--log-level', 'error'], yaml)).toMatchObject({
      http: { host: 'localhost', port: 9 },
      etcd: ['https://a:1', 'https://b:2'],
      tls: { key: { path: 'other.key', field: '--tls-key' } },
      dataDirectory: 'd',
      logLevel: 'error',
    });
  });

  it('takes an empty file for no settings', () => {
    expect(parse([], '')).toEqual(parse([]));
    expect(parse([], '# nothing here\n')).toEqual(parse([]));
  });

  it('leaves --help and --version to commander, as success', () => {
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      for (const option of ['--help', '--version']) {
        expect(() => parse([option])).toThrow(
          expect.objectContaining({ exitCode: 0 }) as unknown as CommanderError,
        );
      }
    } finally {
      write.mockRestore();
    }
  });
});

describe('a mistake in the file', () => {
  it.each([
    ['policy: x', 'deployment.policy is "x"; it', /must be one of hels, .*equal/],
    ['numerics: loose', 'deployment.numerics is "loose"; it', /must be one of exact, fast$/],
    ['workers: 0', 'deployment.workers is 0; it', /must be a whole number from 1 to 1024$/],
    ['workers: two', 'deployment.workers is "two"; it', /must be a whole number from 1 to 1024$/],
    ['sequences: .inf', 'deployment.sequences is Infinity; it', /from 1 to 1024$/],
    ['prefixCache: 1', 'deployment.prefixCache is 1; it', /must be true or false$/],
    ['name: a b', 'deployment.name is "a b"; it', /at most 128 letters, digits and/],
    ['name: nö', 'deployment.name is "nö"; it', /at most 128 letters, digits and/],
    [`name: ${'a'.repeat(129)}`, 'deployment.name is "aaa', /at most 128 letters, digits and/],
    ['gpus: 4', "'gpus' is not known", /model, name, policy, numerics, quantization, workers/],
  ])('of the deployment, %s, names file, field and what is allowed', (line, field, allowed) => {
    const { code, message } = refusal([], `deployment:\n  model: /m\n  ${line}\n`);
    expect(code).toBe('config-invalid');
    expect(message).toContain(`${file}: `);
    expect(message).toContain(field);
    expect(message).toMatch(allowed);
  });

  it.each([
    ['logLevel: loud', 'logLevel is "loud"; it', /must be one of error, warn, info, debug$/],
    ['http: 8080', 'http is 8080; it', /must be a text$/],
    ['dataDir: ""', 'dataDir is ""; it', /must not be empty$/],
    ['http: localhost', `${file}: http is 'localhost'`, /HOST:PORT/],
    ['grpc: 10.0.0.1:7070', `${file}: grpc`, /--insecure/],
    ['etcd: [http://a]', `${file}: etcd is 'http://a'`, /http:\/\/HOST:PORT/],
    ['etcd: http://a:1', 'etcd is "http://a:1"; it', /must be a list of texts$/],
    ['insecure: maybe', 'insecure is "maybe"; it', /must be true or false$/],
    ['apiKey: 12345678', 'apiKey is not a text; it', /must be one: put it in quotes$/],
    ['apiKey: short', `${file}: apiKey has 5 characters`, /8 or more/],
    ['apiKey: schlüssel', `${file}: apiKey has characters`, /ASCII/],
    ['apiKey: "12345678 "', `${file}: apiKey has characters`, /no space at either end/],
    ['corsOrigins: ["*"]', `${file}: corsOrigins is '*'`, /no \* for all/],
    ['corsOrigins: [https://a.example/]', 'https://a.example/', /without a path/],
    ['corsOrigins: [https://a.example:443]', 'https://a.example:443', /the port/],
    ['corsOrigins: [https://A.example]', 'https://A.example', /small letters/],
    ['corsOrigins: [a.example]', 'a.example', /https:\/\/HOST/],
    ['htpp: 127.0.0.1:1', "'htpp' is not known", /http, grpc, dataDir/],
    ['deployment: {}', 'deployment.model is missing; it', /must be a text$/],
    ['deployment: /m', 'deployment is "/m"; it', /must be an object$/],
    ['- a list', 'the file', /object/],
    ['just text', 'the file', /object/],
  ])('%s names file, field and what is allowed', (yaml, field, allowed) => {
    const { code, message } = refusal([], yaml);
    expect(code).toBe('config-invalid');
    expect(message).toContain(file);
    expect(message).toContain(field);
    expect(message).toMatch(allowed);
  });

  it('tells every mistake at once', () => {
    const { message } = refusal([], 'logLevel: loud\ninsecure: 1\n');
    expect(message).toContain('logLevel');
    expect(message).toContain('insecure');
  });

  it('that is no YAML names the file and the line', () => {
    const { code, message } = refusal([], 'http: [1,\ngrpc: }');
    expect(code).toBe('config-invalid');
    expect(message).toMatch(/hels\.yaml is not YAML: .*line 2/s);
  });

  it('that is two documents says what to do', () => {
    const { message } = refusal([], 'logLevel: info\n---\nlogLevel: warn\n');
    expect(message).toMatch(/is not YAML: it has several documents; keep one/);
  });

  it('that cannot be read names it', () => {
    const read = () => {
      throw new Error('ENOENT: no such file');
    };
    expect(() => parseControllerConfig(['--config', 'none.yaml'], '1', read)).toThrow(
      expect.objectContaining({
        code: 'config-invalid',
        message: "--config is 'none.yaml'; it cannot be read: Error: ENOENT: no such file",
      }),
    );
  });
});

describe('a mistake on the command line', () => {
  it.each(['--htpp', '--log-level=loud', 'surplus'])('%s is a usage error', (parameter) => {
    expect(refusal([parameter]).code).toBe('usage');
  });

  it.each([
    ['--http', ''],
    ['--http', 'localhost'],
    ['--http', 'localhost:65536'],
    ['--http', '::1:80'],
    ['--http', 'a b:80'],
    ['--grpc', ':80'],
    ['--grpc', '127.0.0.1:x'],
  ])('%s %j names the option and the form', (option, value) => {
    const error = refusal([option, value]);
    expect(error).toMatchObject({ code: 'config-invalid', field: option });
    expect(error.message).toContain('HOST:PORT');
  });

  it.each(['0.0.0.0:80', '[::]:80', '192.168.1.5:80', 'gpu-host:80', '128.0.0.1:80'])(
    'listening on %s is refused without TLS, unless --insecure',
    (address) => {
      for (const option of ['--http', '--grpc']) {
        const error = refusal([option, address]);
        expect(error).toMatchObject({ code: 'config-invalid', field: option });
        expect(error.message).toContain('--insecure');
        expect(parse([option, address, '--insecure'])).toBeDefined();
      }
      expect(parse(['--http', address], 'insecure: true').http.port).toBe(80);
    },
  );

  it.each([
    '',
    'etcd:2379',
    'ftp://a:1',
    'http://',
    'http://a',
    'http://a:0',
    'http://a:99999',
    'http://a:1/path',
    'http://user@a:1',
    'http://a:1,',
    'http://a:1, http://b:1',
  ])('--etcd %j names the form', (urls) => {
    const error = refusal(['--etcd', urls]);
    expect(error).toMatchObject({ code: 'config-invalid', field: '--etcd' });
    expect(error.message).toContain('http://HOST:PORT');
  });

  it('with TLS of its own a port may listen anywhere', () => {
    const httpTls = ['--http-tls-cert', 'http.pem', '--http-tls-key', 'http.key'];
    expect(parse([...httpTls, '--http', '10.0.0.1:443']).http.host).toBe('10.0.0.1');
    expect(refusal([...httpTls, '--grpc', '10.0.0.1:7070']).field).toBe('--grpc');
    expect(refusal(['--http', '10.0.0.1:443']).message).toContain('no --http-tls-cert and --http');
    expect(parse([...ourTls, '--grpc', '10.0.0.1:7070']).grpc.host).toBe('10.0.0.1');
    expect(refusal([...ourTls, '--http', '10.0.0.1:80']).field).toBe('--http');
    expect(refusal(['--grpc', '10.0.0.1:7070']).message).toContain('no --tls-ca');
  });

  it('TLS takes all its files or none, and names those that are missing', () => {
    const error = refusal(['--tls-ca', 'ca.pem']);
    expect(error).toMatchObject({ code: 'config-invalid', field: '--tls-cert' });
    expect(error.message).toMatch(/^--tls-cert and --tls-key are missing; give --tls-ca, /);
    expect(refusal([], 'tlsCa: a\ntlsKey: b').message).toMatch(/^--tls-cert is missing; give /);
    const http = refusal(['--http-tls-key', 'http.key']);
    expect(http.message).toMatch(/^--http-tls-cert is missing; give --http-tls-cert, --http-tls-k/);
    const etcd = ['--etcd', 'https://a:1'];
    expect(refusal([...etcd, '--etcd-key', 'k']).message).toMatch(/^--etcd-cert is missing/);
    expect(parse([...etcd, '--etcd-ca', 'ca.pem']).etcdTls.client).toBeNull();
  });

  it('certificates for etcd need https', () => {
    const plain = refusal(['--etcd', 'https://a:1,http://b:1', '--etcd-ca', 'ca.pem']);
    expect(plain).toMatchObject({ code: 'config-invalid', field: '--etcd-ca' });
    expect(plain.message).toContain('the endpoint http://b:1 has no TLS');
    expect(refusal(['--etcd-ca', 'ca.pem']).message).toContain('there is no --etcd');
  });

  it('warns of what is open to the network in plain text', () => {
    const warnings = (...parameters: string[]) => plaintextWarnings(parse(parameters)).join('\n');
    expect(warnings()).toBe('');
    expect(warnings('--insecure')).toBe('');
    const open = ['--http', '0.0.0.0:80', '--grpc', '10.0.0.1:7070', '--insecure'];
    expect(warnings(...open)).toMatch(
      /gRPC listens on 10\.0\.0\.1:7070 in plain text and asks nob/,
    );
    expect(warnings(...open)).toMatch(/HTTP listens on 0\.0\.0\.0:80 in plain text and without an/);
    expect(warnings(...open, ...ourTls)).not.toContain('gRPC');
    const httpTls = ['--http-tls-cert', 'http.pem', '--http-tls-key', 'http.key'];
    expect(warnings(...open, ...httpTls)).not.toContain('HTTP listens');
    expect(warnings(...open, '--api-key', 'long enough')).toContain('can be read on the way');
  });

  it('an API key that is empty or short is refused and not repeated', () => {
    expect(refusal(['--api-key', 'secret']).message).not.toContain('secret');
    vi.stubEnv('HELS_API_KEY', '');
    expect(refusal([])).toMatchObject({ code: 'config-invalid', field: '--api-key' });
    vi.stubEnv('HELS_API_KEY', 'from the environment');
    expect(parse([]).apiKey).toBe('from the environment');
  });
});
