import { describe, expect, it } from 'vitest';
import { KeyValueState } from '../../../controller/store/key-value-state.ts';

const put = (value: string) => [{ key: '/plan', value, leaseId: null }];

describe('the history', () => {
  it('is bounded by what it holds, not by the number of changes alone', () => {
    const state = new KeyValueState();
    const megabyte = 'x'.repeat(2 ** 20);
    for (let i = 0; i < 20; i += 1) state.apply(put(`${i}${megabyte}`));
    expect(() => state.since(0, '/')).toThrow('too old');
    const held = state.since(state.revision - 3, '/');
    expect(held.map((event) => event.type === 'put' && event.entry.revision)).toEqual([18, 19, 20]);
  });

  it('keeps the last change however large it is: a watch is about to read it', () => {
    const state = new KeyValueState();
    state.apply(put('small'));
    state.apply(put('x'.repeat(2 ** 25)));
    expect(state.since(1, '/')).toHaveLength(1);
    expect(() => state.since(0, '/')).toThrow('too old');
  });
});
