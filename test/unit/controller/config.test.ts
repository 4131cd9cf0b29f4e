import { afterEach, describe, expect, it, vi } from 'vitest';
import { parseControllerConfig } from '../../../controller/config.ts';

const noFile = () => {
  throw new Error('no file is read');
};
const parse = (...parameters: string[]) => parseControllerConfig(parameters, '0', noFile);

afterEach(() => {
  vi.unstubAllEnvs();
});

describe('the API key', () => {
  it('is taken from HELS_API_KEY', () => {
    vi.stubEnv('HELS_API_KEY', 'a secret key');
    expect(parse().apiKey).toBe('a secret key');
  });

  it('is refused when it is shorter than 8 characters, without being shown', () => {
    vi.stubEnv('HELS_API_KEY', 'short');
    expect(() => parse()).toThrow(/--api-key has 5 characters; .*at least 8/);
    // An empty key would be one that everybody has.
    vi.stubEnv('HELS_API_KEY', '');
    expect(() => parse()).toThrow(/--api-key has 0 characters/);
  });
});
