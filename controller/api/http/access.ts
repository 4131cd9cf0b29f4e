/** Who may call: Host names, origins, API key. Pure checks over a request's headers. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { limits } from '../../limits.ts';
import { ApiError } from './api-error.ts';

export interface AccessRules {
  /** null: no key is asked for. */
  apiKey: string | null;
  /** Names a Host header may carry, without port; null: any. A page on another site cannot forge it, so it stops DNS rebinding. */
  allowedHosts: readonly string[] | null;
  /** Origins of pages on other sites that may read answers; none by default. */
  corsOrigins: readonly string[];
}

/** For a server that listens on loopback only, at `host`. */
export function loopbackHosts(host: string): readonly string[] {
  const own = host.includes(':') ? `[${host}]` : host;
  return [...new Set(['localhost', '127.0.0.1', '[::1]', own.toLowerCase()])];
}

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

/** True where no key is asked for. Compares hashes in constant time, so that neither the key's length nor a matching beginning shows. */
export function hasApiKey(headers: IncomingHttpHeaders, { apiKey }: AccessRules): boolean {
  if (apiKey === null) return true;
  const given = /^Bearer (.+)$/i.exec(headers.authorization ?? '')?.[1] ?? '';
  const hash = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(given), hash(apiKey));
}

export function checkApiKey(headers: IncomingHttpHeaders, rules: AccessRules): void {
  if (hasApiKey(headers, rules)) return;
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
    'access-control-allow-headers': allowedHeaders(headers['access-control-request-headers']),
    'access-control-expose-headers': 'x-request-id, retry-after',
    vary: 'origin, access-control-request-headers',
  };
}

const ownHeaders = ['authorization', 'content-type'];

/**
 * Clients add headers of their own (X-Stainless-... of openai-node), and a browser asks for each before it sends the request. None
 * of them means anything here, so a page that may read answers may send any. A list that is too long or no list of names is not repeated.
 */
function allowedHeaders(asked: string | undefined): string {
  const names = (asked ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim());
  const isList = names.every((name) => /^[\w!#$%&'*+.^`|~-]*$/.test(name));
  const short = (asked ?? '').length <= limits.corsHeadersCharactersMax;
  const more = isList && short ? names.filter((name) => name !== '') : [];
  return [...new Set([...ownHeaders, ...more])].join(', ');
}
