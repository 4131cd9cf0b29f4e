/** Who may speak to the HTTP server: names, keys, origins. */
import { request as httpRequest } from 'node:http';
import { describe, expect, it } from 'vitest';
import { loopbackHosts } from '../../../controller/api/http/access.ts';
import { completion, errorOf, json, useHttpServer } from '../../support/http-completions.ts';

const http = useHttpServer();
const { start, post } = http;

/** fetch sets Host itself. */
function getWithHost(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    httpRequest(`${http.server.url}/health`, { headers: { host } }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .on('error', reject)
      .end();
  });
}

describe('access', () => {
  it('is by the names of this server only', async () => {
    await start();
    expect(await getWithHost('localhost:1234')).toBe(200);
    expect(await getWithHost('[::1]:80')).toBe(200);
    expect(await getWithHost('evil.example')).toBe(403);
    expect(await getWithHost('127.0.0.1.evil.example')).toBe(403);
    expect(await getWithHost('127.0.0.2')).toBe(403);
  });

  it('is by the address that it listens on, too', async () => {
    await start({ access: { allowedHosts: loopbackHosts('127.0.0.2') } });
    expect(await getWithHost('127.0.0.2:8080')).toBe(200);
    expect(await getWithHost('localhost')).toBe(200);
    expect(await getWithHost('127.0.0.3')).toBe(403);
    expect(loopbackHosts('::1')).toEqual(loopbackHosts('localhost'));
  });

  it('needs the key for models, answers and status, not for health', async () => {
    await start({ access: { apiKey: 'secret' } });
    for (const path of ['/v1/models', '/v1/models/fake', '/status']) {
      const response = await fetch(http.server.url + path);
      expect([response.status, (await errorOf(response)).code]).toEqual([401, 'invalid_api_key']);
    }
    expect((await post(completion, { ...json, authorization: 'Bearer wrong' })).status).toBe(401);
    expect((await post(completion, { ...json, authorization: 'Bearer secret' })).status).toBe(200);
    for (const path of ['/health', '/ready', '/metrics', '/']) {
      expect((await fetch(http.server.url + path)).status).toBe(200);
    }
  });

  it('needs the key for why it is not ready, beyond the phase', async () => {
    const told = async (headers: Record<string, string> = {}) => {
      const response = await fetch(`${http.server.url}/ready`, { headers });
      return [response.status, ((await response.json()) as { reason: string }).reason];
    };
    const readiness = {
      ready: false,
      phase: 'failed',
      reason: 'failed: /models/secret is missing',
    };
    await start({ access: { apiKey: 'secret' } });
    Object.assign(http.server.readiness, readiness);
    expect(await told()).toEqual([503, 'failed']);
    expect(await told({ authorization: 'Bearer wrong' })).toEqual([503, 'failed']);
    expect(await told({ authorization: 'Bearer secret' })).toEqual([503, readiness.reason]);
    await start();
    Object.assign(http.server.readiness, readiness);
    expect(await told()).toEqual([503, readiness.reason]);
  });

  it('is given to pages of configured origins only', async () => {
    await start({ access: { corsOrigins: ['https://chat.example'] } });
    const preflight = (origin: string) =>
      fetch(`${http.server.url}/v1/completions`, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'POST' },
      });
    const allowed = await preflight('https://chat.example');
    expect(allowed.status).toBe(204);
    expect(allowed.headers.get('access-control-allow-origin')).toBe('https://chat.example');
    const other = await preflight('https://other.example');
    expect(other.status).toBe(405);
    expect(other.headers.get('access-control-allow-origin')).toBeNull();
  });
});

describe('a preflight', () => {
  const allowedFor = async (asked: string, origin = 'https://chat.example') => {
    const response = await fetch(`${http.server.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': asked,
      },
    });
    return response.headers.get('access-control-allow-headers');
  };

  it('is given the headers it asks for, beside our own', async () => {
    await start({ access: { corsOrigins: ['https://chat.example'] } });
    expect(await allowedFor('authorization,content-type,x-stainless-arch,X-Stainless-Lang')).toBe(
      'authorization, content-type, x-stainless-arch, x-stainless-lang',
    );
    expect(await allowedFor('')).toBe('authorization, content-type');
    expect(await allowedFor('x-a', 'https://other.example')).toBeNull();
  });

  it('is not repeated what is no list of names or too long', async () => {
    await start({ access: { corsOrigins: ['https://chat.example'] } });
    for (const asked of ['x-a, b c', 'x-a: 1', '*, "x"', 'x'.repeat(2000)]) {
      expect(await allowedFor(asked)).toBe('authorization, content-type');
    }
  });
});
