/** One flipped byte of a rank's slice changes the logits; naming it on a rank that does not load it changes nothing. */
import { describe, expect, test } from 'vitest';
import { readGolden } from '../../worker/tools/golden.ts';
import { shortGolden } from '../support/golden-models.ts';
import { readSafetensors } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

const model = shortGolden('llama-gqa');
const bf16 = shortGolden('llama-gqa-bf16');

/** Two ranks: head groups [0,1) and [1,2), FFN columns [0,56) and [56,112), vocabulary rows [0,100) and [100,199). */
const ranks = '1/1,1/1';
const layer = 'model.layers.2.';

interface Place {
  tensor: string;
  row: number;
  column: number;
  /** The ranks that load the element. */
  owners: number[];
}

const places: Place[] = [
  // column-parallel: rows of the tensor; a head group has 32 query rows and 8 key rows
  { tensor: `${layer}self_attn.q_proj.weight`, row: 31, column: 5, owners: [0] },
  { tensor: `${layer}self_attn.q_proj.weight`, row: 32, column: 5, owners: [1] },
  { tensor: `${layer}self_attn.k_proj.weight`, row: 7, column: 63, owners: [0] },
  { tensor: `${layer}self_attn.v_proj.weight`, row: 8, column: 0, owners: [1] },
  { tensor: `${layer}mlp.gate_proj.weight`, row: 55, column: 9, owners: [0] },
  { tensor: `${layer}mlp.up_proj.weight`, row: 56, column: 9, owners: [1] },
  { tensor: 'lm_head.weight', row: 99, column: 1, owners: [0] },
  { tensor: 'lm_head.weight', row: 198, column: 63, owners: [1] },
  // row-parallel: columns of the tensor
  { tensor: `${layer}self_attn.o_proj.weight`, row: 3, column: 31, owners: [0] },
  { tensor: `${layer}self_attn.o_proj.weight`, row: 3, column: 32, owners: [1] },
  { tensor: `${layer}mlp.down_proj.weight`, row: 63, column: 55, owners: [0] },
  { tensor: `${layer}mlp.down_proj.weight`, row: 63, column: 56, owners: [1] },
  // replicated: each rank has its own copy
  { tensor: `${layer}input_layernorm.weight`, row: 0, column: 17, owners: [0, 1] },
];

/** Byte of the element that holds the upper bits of its fraction and the lowest bit of its exponent. */
function byteOf(place: Place, directory: string): number {
  const { shape, data } = readSafetensors(`${directory}/model.safetensors`).get(place.tensor)!;
  const elementBytes = data.length / shape.reduce((product, size) => product * size, 1);
  return (place.row * shape.at(-1)! + place.column) * elementBytes + elementBytes - 2;
}

describe.each([model, bf16])('$name', (subject) => {
  test.each(places)('$tensor[$row][$column] belongs to $owners', async (place) => {
    const intact = (await verify(subject, { ranks })).logitsSha256;
    const byte = byteOf(place, subject.directory);
    for (const rank of [0, 1]) {
      const report = await verify(subject, {
        ranks,
        corrupt: { rank, tensor: place.tensor, byte },
      });
      const owns = place.owners.includes(rank);
      expect(report.corrupted).toBe(owns);
      if (owns) expect(report.logitsSha256).not.toBe(intact);
      else expect(report.logitsSha256).toBe(intact);
    }
  });
});

test('an embedding row that the prompt uses is in every copy, one that it does not use changes nothing', async () => {
  const tensor = 'model.embed_tokens.weight';
  const intact = await verify(model, { ranks });
  const { inputIds, greedy } = await readGolden(model.golden);
  const used = new Set([...inputIds, ...greedy.prompt, ...greedy.tokens]);
  const unused = Array.from({ length: 199 }, (_, id) => id).find((id) => !used.has(id))!;
  const changed = async (rank: number, row: number) => {
    const byte = byteOf({ tensor, row, column: 2, owners: [] }, model.directory);
    const report = await verify(model, { ranks, corrupt: { rank, tensor, byte } });
    expect(report.corrupted).toBe(true);
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
  [{ rank: 2, tensor: 'lm_head.weight', byte: 0 }, 'rank 2 does not exist'],
  [{ rank: 0, tensor: 'lm_head.bias', byte: 0 }, "no tensor 'lm_head.bias'"],
  [{ rank: 0, tensor: 'lm_head.weight', byte: 199 * 64 * 4 }, 'byte 50944 lies outside'],
])('refuses %j', async (corrupt, message) => {
  await expect(verify(model, { ranks, corrupt })).rejects.toMatchObject({
    code: 'usage',
    field: '--corrupt',
    message: expect.stringContaining(message) as string,
  });
});
