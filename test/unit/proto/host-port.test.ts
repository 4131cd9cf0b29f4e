import { describe, expect, it } from 'vitest';
import {
  isLoopback,
  parseAddresses,
  parseHostPort,
  showHostPort,
} from '../../../proto/domain/host-port.ts';

describe('addresses', () => {
  it('are shown as they are written', () => {
    for (const text of ['[::1]:5', 'a.example:5', '10.0.0.1:65535']) {
      expect(showHostPort(parseHostPort(text, 'x'))).toBe(text);
    }
  });

  it('are loopback only when nothing else can be meant', () => {
    expect(['localhost', '::1', '127.0.0.1', '127.9.9.9'].every(isLoopback)).toBe(true);
    expect(['0.0.0.0', '::', '127.0.0.1.evil.example', '1270.0.0.1'].some(isLoopback)).toBe(false);
  });

  it('of several controllers stand between commas, in their order', () => {
    expect(parseAddresses('b:1, [::1]:7070,a:2', 'x')).toEqual(['b:1', '[::1]:7070', 'a:2']);
  });

  it.each(['', 'a', 'a:0', 'a:65536', 'a:1,', ',a:1', 'a:1;b:1', 'http://a:1', 'a/b:1', '::1:5'])(
    'are refused when they cannot be dialled: %j',
    (text) => {
      const message = expect.stringMatching(/^--x is '.*'; write HOST:PORT with a port from 1 to/);
      const refused = expect.objectContaining({ code: 'config-invalid', field: '--x', message });
      expect(() => parseAddresses(text, '--x')).toThrow(refused);
    },
  );
});
