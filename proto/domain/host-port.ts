/** Addresses as people write them. Pure. */
import { HelsError } from './errors.ts';

export interface HostPort {
  host: string;
  port: number;
}

/** `host:port` or `[v6]:port`; throws config-invalid naming `field`. */
export function parseHostPort(text: string, field: string, portMin = 0): HostPort {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:,/[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port >= portMin && port <= 65_535)) {
    const lowest = portMin === 0 ? '0 (any free one)' : `${portMin}`;
    const problem = `write HOST:PORT with a port from ${lowest} to 65535`;
    throw new HelsError('config-invalid', `${field} is '${text}'; ${problem}`, { field });
  }
  return { host, port };
}

/** The other way round; an IPv6 host gets its brackets. */
export function showHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Reached from its own machine only. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** `host:port`, several with commas, to be dialled in this order; throws config-invalid naming `field` and the one that is wrong. */
export function parseAddresses(text: string, field: string): string[] {
  return text.split(',').map((part) => showHostPort(parseHostPort(part.trim(), field, 1)));
}
