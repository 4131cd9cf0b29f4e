/** The files of an attempt to deploy. */
import { afterEach, expect, it, vi } from 'vitest';
import { newAttempt, nothingInherited, openFiles } from '../../../controller/deployment/attempt.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { bundledModel } from '../../support/daemons.ts';
import { requestFor } from '../cluster/trace.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

it('are read once, and closed again when the attempt has ended meanwhile', async () => {
  const close = vi.fn(async () => undefined);
  vi.spyOn(TextModel, 'load').mockResolvedValue({ close } as unknown as TextModel);
  const request = { ...requestFor('m'), modelPath: bundledModel };
  const attempt = newAttempt(3, nothingInherited(), 5_999);
  expect(attempt).toMatchObject({ epoch: 3, createdUnixSeconds: 5, files: null });
  const files = await openFiles(attempt, request);
  expect(await openFiles(attempt, request)).toBe(files);
  expect(attempt.files).toBe(files);
  expect(close).not.toHaveBeenCalled();

  const superseded = newAttempt(4, nothingInherited(), 0);
  const opening = openFiles(superseded, request);
  superseded.abort.abort(new HelsError('cancelled', 'another deployment took its place'));
  await expect(opening).rejects.toMatchObject({ code: 'cancelled' });
  expect(superseded.files).toBeNull();
  expect(close).toHaveBeenCalledTimes(1);
});
