/** The longest request that the other bounds allow, and those that are longer than any. */
import { describe, expect, it } from 'vitest';
import { limits } from '../../../controller/limits.ts';
import { workloadMax } from '../../../proto/domain/workload.ts';
import { clientOf, FakeController } from './fake-controllers.ts';

async function client() {
  return clientOf([await new FakeController().serve()]);
}

async function failureOf(events: AsyncIterable<unknown>): Promise<unknown> {
  try {
    for await (const _ of events);
  } catch (error) {
    return error;
  }
  return null;
}

describe('a request', () => {
  it('as long as it may be gets as far as the context of the model', async () => {
    const share = limits.promptCharactersMax / limits.chatMessagesMax;
    const messages = Array.from({ length: limits.chatMessagesMax }, () => ({
      role: 'assistant' as const,
      content: '\u20ac'.repeat(share),
    }));
    const tokenIds = Array(workloadMax.contextTokens).fill(2 ** 21 - 1);
    const resume = { tokenIds, seed: Number.MAX_SAFE_INTEGER };
    expect(await failureOf((await client()).generate({ messages }, { resume }))).toMatchObject({
      code: 'context-too-long',
      field: 'resume.token_ids',
    });
  });

  it.each([6.5, 40])('of more is refused with the limit, unread: %d MiB', async (size) => {
    const prompt = 'a'.repeat(size * 2 ** 20);
    expect(await failureOf((await client()).generate({ prompt }))).toMatchObject({
      code: 'request-invalid',
      message: expect.stringMatching(
        /^the request is larger than 127\.0\.0\.1:\d+ takes: .*\b6553600\b.*; send less text or fewer tokens$/,
      ),
    });
  });
});
