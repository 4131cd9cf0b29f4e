import type { ServedModel } from '../generation-service.ts';

/** A model as /v1/models lists it. */
export function modelObject(model: ServedModel): object {
  return {
    id: model.modelId,
    object: 'model',
    created: model.createdUnixSeconds,
    owned_by: 'hels',
  };
}
