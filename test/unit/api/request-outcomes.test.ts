/** How answers that end early are counted: each once, whoever ended it. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { request, serviceOver } from './generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

/** Takes events until one of this type; then leaves. */
async function outcomesAfter(type: string, reason: HelsError | null = null): Promise<string[]> {
  const { service, registry } = serviceOver(text);
  const caller = new AbortController();
  const events = service.generate(request(), { arrivalMs: 0, signal: caller.signal });
  for await (const event of events) {
    if (event.type !== type) continue;
    if (reason !== null) caller.abort(reason);
    break;
  }
  const lines = (await registry.metrics()).split('\n');
  return lines.filter((line) => line.startsWith('hels_requests_total{'));
}

const counted = (outcome: string) => [`hels_requests_total{outcome="${outcome}"} 1`];

it.each(['started', 'delta'])('an answer left after %s is cancelled', async (type) => {
  expect(await outcomesAfter(type)).toEqual(counted('cancelled'));
});

it('an answer left for a reason counts as that', async () => {
  const stalled = new HelsError('deadline-exceeded', 'the client read nothing');
  expect(await outcomesAfter('delta', stalled)).toEqual(counted('deadline-exceeded'));
});

it('an answer left after its end has ended as it did', async () => {
  expect(await outcomesAfter('finished')).toEqual(counted('length'));
});
