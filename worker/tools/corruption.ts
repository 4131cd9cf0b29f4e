/** `--corrupt rank:tensor:byte`: which byte of which tensor is flipped. Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { ShardSpec } from '../binding/engine-types.ts';
import type { TensorDescription } from '../binding/native.ts';
import { loadedSlice, sizeBytesOf, tensorByteOf } from './loaded-slice.ts';

export interface Corruption {
  rank: number;
  tensor: string;
  /** Counted within what the rank loads of the tensor, in file order. */
  byte: number;
}

/** The same byte counted from the tensor's start. Throws usage when the rank does not load it, naming what it loads. */
export function corruptedTensorByte(
  { rank, tensor: name, byte }: Corruption,
  model: ModelSpec,
  shards: readonly ShardSpec[],
  tensors: readonly TensorDescription[],
): number {
  const shard = shards[rank];
  if (shard === undefined) {
    throw usage(`rank ${rank} does not exist; there are ${shards.length} ranks`);
  }
  const tensor = tensors.find((candidate) => candidate.name === name);
  if (tensor === undefined) throw usage(`the model has no tensor '${name}'`);
  const slice = loadedSlice(model, shard, tensor);
  const loadedBytes = slice === null ? 0 : sizeBytesOf(slice);
  if (slice === null || byte >= loadedBytes) {
    const range =
      loadedBytes === 0
        ? 'name a rank that loads some of it, or a tensor of which this rank does'
        : `write a byte from 0 to ${loadedBytes - 1}`;
    throw usage(
      `byte ${byte} is not loaded: rank ${rank} loads ${loadedBytes} of the ${tensor.sizeBytes} bytes of '${name}'; ${range}`,
    );
  }
  return tensorByteOf(slice, byte);
}

function usage(problem: string): HelsError {
  return new HelsError('usage', `--corrupt: ${problem}`, { field: '--corrupt' });
}
