/** Who may call: Host names, origins, API key. Pure checks over a request's headers. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { ApiError } from './api-error.ts';

export interface AccessRules {
  /** null: no key is asked for. */
  apiKey: string | null;
  /** Names a Host header may carry, without port; null: any. A page on another site cannot forge it, so it stops DNS rebinding. */
  allowedHosts: readonly string[] | null;
  /** Origins of pages on other sites that may read answers; none by default. */
  corsOrigins: readonly string[];
}

/** For a server that listens on loopback only. */
export const loopbackHosts = ['localhost', '127.0.0.1', '[::1]'] as const;

export function checkHost(headers: IncomingHttpHeaders, rules: AccessRules): void {
  if (rules.allowedHosts === null) return;
  const host = (headers.host ?? '').replace(/:\d*$/, '').toLowerCase();
  if (rules.allowedHosts.includes(host)) return;
  throw new ApiError(
    403,
    'host_not_allowed',
    `host: '${host.slice(0, 80)}' is not a name of this server; it answers to ${rules.allowedHosts.join(', ')}`,
  );
}

/** Compares hashes in constant time, so that neither the key's length nor a matching beginning shows. */
export function checkApiKey(headers: IncomingHttpHeaders, rules: AccessRules): void {
  if (rules.apiKey === null) return;
  const given = /^Bearer (.+)$/i.exec(headers.authorization ?? '')?.[1] ?? '';
  const hash = (text: string) => createHash('sha256').update(text).digest();
  if (timingSafeEqual(hash(given), hash(rules.apiKey))) return;
  throw new ApiError(
    401,
    'invalid_api_key',
    'the API key is missing or wrong; send it as "Authorization: Bearer KEY"',
    { headers: { 'www-authenticate': 'Bearer' } },
  );
}

/** Headers that let the page of an allowed origin read the answer; none for others. */
export function corsHeaders(
  headers: IncomingHttpHeaders,
  rules: AccessRules,
): Record<string, string> {
  const { origin } = headers;
  if (origin === undefined || !rules.corsOrigins.includes(origin)) return {};
  return {
    'access-control-allow-origin': origin,
    'access-control-allow-methods': 'GET, POST',
    'access-control-allow-headers': 'authorization, content-type',
    'access-control-expose-headers': 'x-request-id, retry-after',
    vary: 'origin',
  };
}
