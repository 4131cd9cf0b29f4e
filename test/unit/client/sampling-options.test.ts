import { expect, it } from 'vitest';
import { collect } from '../../support/daemons.ts';
import { clientOf, input, pair, sampled } from './fake-controllers.ts';

it('a topP that would come as 0, which is none, is refused before it is sent', async () => {
  const client = clientOf(Object.values(await pair()));
  const answer = (topP: number) => collect(client.generate(input, { ...sampled, topP }));
  await expect(answer(1e-300)).rejects.toMatchObject({
    code: 'request-invalid',
    field: 'topP',
    message: expect.stringContaining('1e-300'),
  });
  expect((await answer(1e-45)).finished).toMatchObject({ completionTokens: 60 });
});
