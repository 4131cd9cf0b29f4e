/** One flipped byte of what a rank loads of a tensor: as if the file had it there, and nothing but a loaded byte can be named. */
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import { inspectModel } from '../../worker/binding/native.ts';
import { readGolden } from '../../worker/tools/golden.ts';
import { loadedSlice, sizeBytesOf } from '../../worker/tools/loaded-slice.ts';
import { quantizeModel } from '../../worker/tools/quantize.ts';
import { parseRanks, splitModel } from '../../worker/tools/split.ts';
import {
  configOf,
  type GoldenModel,
  ScratchModels,
  shortGolden,
} from '../support/golden-models.ts';
import { readSafetensors, writeSafetensors } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const model = shortGolden('llama-gqa');

async function quantized(source: GoldenModel, bits: 8 | 4): Promise<GoldenModel> {
  const target = scratch.empty(`${source.name}-${bits}`);
  await quantizeModel({
    ...{ source: source.directory, target, bits, force: false },
    onProgress: () => undefined,
  });
  return { ...source, directory: target };
}

/** A copy whose file has the byte of the tensor flipped. */
function flipped(source: GoldenModel, tensor: string, byte: number): GoldenModel {
  const directory = scratch.copyOf(source);
  const file = join(directory, 'model.safetensors');
  const tensors = readSafetensors(file);
  const { data } = tensors.get(tensor)!;
  data[byte] = data[byte]! ^ 0xff;
  writeSafetensors(file, tensors);
  return { ...source, directory };
}

/** Two ranks: head groups [0,1) and [1,2), FFN columns [0,56) and [56,112), vocabulary rows [0,100) and [100,199). */
const ranks = '1/1,1/1';
const layer = 'model.layers.2.';

interface Place {
  tensor: string;
  rank: number;
  /** Within the rank's slice. */
  row: number;
  column: number;
  /** The slice's first row and column in the tensor, and its width. */
  from: [row: number, column: number];
  width: number;
}

const place = (
  [tensor, rank]: [string, number],
  [row, column]: [number, number],
  from: [number, number],
  width: number,
): Place => ({ tensor, rank, row, column, from, width });

const places: Place[] = [
  // column-parallel: rows of the tensor; a head group has 32 query rows and 8 key rows
  place([`${layer}self_attn.q_proj.weight`, 0], [31, 5], [0, 0], 64),
  place([`${layer}self_attn.q_proj.weight`, 1], [0, 5], [32, 0], 64),
  place([`${layer}self_attn.v_proj.weight`, 1], [7, 0], [8, 0], 64),
  place([`${layer}mlp.up_proj.weight`, 1], [0, 9], [56, 0], 64),
  place(['lm_head.weight', 1], [98, 63], [100, 0], 64),
  // row-parallel: columns of the tensor
  place([`${layer}self_attn.o_proj.weight`, 0], [3, 31], [0, 0], 32),
  place([`${layer}self_attn.o_proj.weight`, 1], [3, 0], [0, 32], 32),
  place([`${layer}mlp.down_proj.weight`, 1], [63, 55], [0, 56], 56),
];

describe.each([model, shortGolden('llama-gqa-bf16')])('$name', (subject) => {
  const elementBytes = subject === model ? 4 : 2;
  const widths = { 64: 64, 32: 64, 56: 112 } as const;

  test.each(places)('rank $rank of $tensor: byte of its element [$row][$column]', async (place) => {
    const { tensor, rank, row, column, from, width } = place;
    // The byte that holds the upper bits of the fraction and the lowest bit of the exponent.
    const byteAt = (element: number) => element * elementBytes + elementBytes - 2;
    const byte = byteAt(row * width + column);
    const corrupted = await verify(subject, { ranks, corrupt: { rank, tensor, byte } });
    expect(corrupted.corrupted).toBe(true);
    const whole = widths[width as keyof typeof widths];
    const inFile = byteAt((from[0] + row) * whole + from[1] + column);
    const other = await verify(flipped(subject, tensor, inFile), { ranks });
    expect(corrupted.logitsSha256).toBe(other.logitsSha256);
    expect(corrupted.logitsSha256).not.toBe((await verify(subject, { ranks })).logitsSha256);
  });
});

test.each([
  ['self_attn.o_proj.qweight', 4, 1, 3 * 16 + 2, 3 * 32 + 16 + 2],
  ['self_attn.o_proj.scales', 4, 1, 2 * 5, 5 * 4 + 2],
  ['mlp.down_proj.qweight', 8, 1, 56, 112 + 56],
  ['mlp.gate_proj.scales', 8, 0, 0, 0],
])('%s in %i bits: byte %#', async (name, bits, rank, byte, inFile) => {
  const files = await quantized(model, bits as 8 | 4);
  const tensor = `${layer}${name}`;
  const corrupted = await verify(files, { ranks, corrupt: { rank, tensor, byte } });
  const other = await verify(flipped(files, tensor, inFile), { ranks });
  expect(corrupted.logitsSha256).toBe(other.logitsSha256);
  expect(corrupted.logitsSha256).not.toBe((await verify(files, { ranks })).logitsSha256);
});

test('a replicated tensor: each rank has its own copy', async () => {
  const tensor = `${layer}input_layernorm.weight`;
  const intact = await verify(model, { ranks });
  const hashes = await Promise.all(
    [0, 1].map((rank) => verify(model, { ranks, corrupt: { rank, tensor, byte: 4 * 17 + 2 } })),
  );
  const different = new Set([intact, ...hashes].map(({ logitsSha256 }) => logitsSha256));
  expect(different.size).toBe(3);
});

test('an embedding row that the prompt uses is in every copy, one that it does not use changes nothing', async () => {
  const tensor = 'model.embed_tokens.weight';
  const intact = await verify(model, { ranks });
  const { inputIds, greedy } = await readGolden(model.golden);
  const used = new Set([...inputIds, ...greedy.prompt, ...greedy.tokens]);
  const unused = Array.from({ length: 199 }, (_, id) => id).find((id) => !used.has(id))!;
  const changed = async (rank: number, row: number) => {
    const byte = (row * 64 + 2) * 4 + 2;
    const report = await verify(model, { ranks, corrupt: { rank, tensor, byte } });
    return report.logitsSha256 !== intact.logitsSha256;
  };
  const first = inputIds[0]!;
  expect([await changed(0, first), await changed(1, first)]).toEqual([true, true]);
  expect([await changed(0, unused), await changed(1, unused)]).toEqual([false, false]);
});

test('without --corrupt the report has no field for it', async () => {
  expect(await verify(model, { ranks })).not.toHaveProperty('corrupted');
});

test.each([
  ['llama-gqa', '1/1,0/2,1/0'],
  ['llama-mha-tied', '3/1,0/0,5/1'],
  ['opt-pre', '3/0,5/1'],
  ['qwen2', '1/1,1/1'],
])(
  '%s over %s: the slices are what the ranks load, plain and in 8 and 4 bits',
  async (name, split) => {
    const plain = shortGolden(name);
    for (const files of [plain, await quantized(plain, 8), await quantized(plain, 4)]) {
      const spec = modelSpecFromConfig(configOf(files.directory));
      const shards = splitModel(spec, parseRanks(split));
      const tensors = await inspectModel(files.directory);
      const report = await verify(files, { ranks: split });
      const loaded = shards.map((shard) => {
        const slices = tensors.map((tensor) => loadedSlice(spec, shard, tensor));
        return slices.reduce((sum, slice) => sum + (slice === null ? 0 : sizeBytesOf(slice)), 0);
      });
      expect(loaded).toEqual(report.ranks.map(({ weightBytesLoaded }) => weightBytesLoaded));
    }
  },
);

const headBytes = 99 * 64 * 4;
test.each([
  [{ rank: 2, tensor: 'lm_head.weight', byte: 0 }, 'rank 2 does not exist; there are 2 ranks'],
  [{ rank: 0, tensor: 'lm_head.bias', byte: 0 }, "the model has no tensor 'lm_head.bias'"],
  [
    { rank: 1, tensor: 'lm_head.weight', byte: headBytes },
    `byte ${headBytes} is not loaded: rank 1 loads ${headBytes} of the 50944 bytes of 'lm_head.weight'; write a byte from 0 to ${headBytes - 1}`,
  ],
])('refuses %j', async (corrupt, message) => {
  await expect(verify(model, { ranks, corrupt })).rejects.toMatchObject({
    code: 'usage',
    field: '--corrupt',
    message: `--corrupt: ${message}`,
  });
});

test('refuses a tensor of which the rank loads nothing', async () => {
  const corrupt = { rank: 1, tensor: `${layer}self_attn.o_proj.weight`, byte: 0 };
  await expect(verify(model, { ranks: '2/1,0/1', corrupt })).rejects.toMatchObject({
    code: 'usage',
    message: expect.stringContaining(
      `rank 1 loads 0 of the 16384 bytes of '${corrupt.tensor}'; name a rank that loads some of it`,
    ) as string,
  });
});
