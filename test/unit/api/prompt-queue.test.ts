/** What waits to be read is left when its caller leaves. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { request, serviceOver } from './generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

it("the caller's signal is known to the queue of texts that a prompt waits in", async () => {
  const signals: unknown[] = [];
  const queue: TextModel = Object.assign(Object.create(text), {
    encode: async (_: string, __: boolean, signal: AbortSignal) => [signals.push(signal)],
    encodeChat: async (_: unknown, signal: AbortSignal) => [signals.push(signal)],
  });
  const { service } = serviceOver(queue);
  const { signal } = new AbortController();
  await service.prepare(request({ input: { type: 'text', text: 'a' } }), signal);
  await service.prepare(
    request({ input: { type: 'chat', messages: [{ role: 'user', content: 'a' }] } }),
    signal,
  );
  expect(signals.map((given) => given === signal)).toEqual([true, true]);
});
