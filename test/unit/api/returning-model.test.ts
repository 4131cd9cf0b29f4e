/** Requests that come while the model that served is brought up again. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { request, serviceOver } from './generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

const leaves = new AbortController().signal;

describe('a request that comes while the model is on its way back', () => {
  it('is prepared once the model serves again, and again when an epoch ends while its prompt is read', async () => {
    const waits: (string | null)[] = [];
    // Its text is closed with the epoch that ends.
    const closing: TextModel = Object.assign(Object.create(text), {
      encode: async () => {
        served = { ...served, text };
        throw new HelsError('draining', 'the tokenizer was closed');
      },
    });
    let served = { modelId: 'fake', text: closing, createdUnixSeconds: 0 };
    const { service } = serviceOver(
      closing,
      {},
      {
        servedModel: () => served,
        awaitReturn: async (modelId) => void waits.push(modelId),
      },
    );
    const input = { type: 'text', text: 'who is there?' } as const;
    const prepared = await service.prepare(request({ input, model: 'fake' }), leaves);
    expect(prepared.model.text).toBe(text);
    expect(waits).toEqual(['fake', 'fake']);
  });

  it('is refused when it does not come back in time', async () => {
    const { service, registry } = serviceOver(text, {}, { servedModel: () => null });
    const refused = service.prepare(request(), leaves);
    await expect(refused).rejects.toMatchObject({ code: 'not-ready' });
    expect(await registry.metrics()).toContain('hels_requests_total{outcome="not-ready"} 1');
  });

  it('is refused at once when it is wrong, or too many wait', async () => {
    const waits: unknown[] = [];
    const full = async () => {
      waits.push('waited');
      throw new HelsError('overloaded', 'too many wait');
    };
    const { service } = serviceOver(text, {}, { awaitReturn: full });
    const wrong = service.prepare(request({ temperature: -1 }), leaves);
    await expect(wrong).rejects.toMatchObject({ code: 'request-invalid' });
    expect(waits).toEqual([]);
    await expect(service.prepare(request(), leaves)).rejects.toMatchObject({ code: 'overloaded' });
  });

  it('ends with the reason of a caller that leaves while it waits', async () => {
    const caller = new AbortController();
    const { service, registry } = serviceOver(
      text,
      {},
      {
        servedModel: () => null,
        awaitReturn: async () => caller.abort(new HelsError('cancelled', 'the client left')),
      },
    );
    const left = service.prepare(request(), caller.signal);
    await expect(left).rejects.toMatchObject({ code: 'cancelled' });
    expect(await registry.metrics()).toContain('hels_requests_total{outcome="cancelled"} 1');
  });
});
