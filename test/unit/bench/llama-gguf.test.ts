import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ggufNameOf, interleaveHeads, writeLlamaGguf } from '../../bench/engine/llama-gguf.ts';
import { bundledModel } from '../../support/daemons.ts';
import { readSafetensors, writeSafetensors } from '../../support/safetensors.ts';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-gguf-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe('a Llama model as GGUF', () => {
  it('reorders the rows of each head so that rotated pairs are neighbours', () => {
    // Two heads of four rows of two bytes: rows i and i + 2 of a head turn together.
    const rows = Buffer.from([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    const expected = [0, 0, 2, 2, 1, 1, 3, 3, 4, 4, 6, 6, 5, 5, 7, 7];
    expect([...interleaveHeads(rows, 2, 4)]).toEqual(expected);
  });

  it('names tensors as llama.cpp does and refuses others', () => {
    expect(ggufNameOf('model.layers.12.self_attn.o_proj.weight')).toBe('blk.12.attn_output.weight');
    expect(ggufNameOf('lm_head.weight')).toBe('output.weight');
    expect(() => ggufNameOf('model.layers.0.self_attn.q_proj.bias')).toThrow(
      'model.layers.0.self_attn.q_proj.bias has no place',
    );
  });

  it('ends with the last tensor, padded, its bytes unchanged, and norms widened to f32', async () => {
    const file = join(directory, 'model.gguf');
    await writeLlamaGguf(bundledModel, file);
    const bytes = readFileSync(file);
    expect(readdirSync(directory)).toEqual(['model.gguf']);
    const tensors = readSafetensors(join(bundledModel, 'model.safetensors'));
    let end = bytes.length;
    for (const [name, { shape, dtype, data }] of [...tensors].toReversed()) {
      const norm = shape.length === 1 && dtype === 'BF16';
      const size = norm ? 2 * data.length : data.length;
      const begin = end - Math.ceil(size / 32) * 32;
      const stored = bytes.subarray(begin, begin + size);
      if (norm) {
        const values = Array.from({ length: data.length / 2 }, (_, i) => [
          stored.readUInt16LE(4 * i),
          stored.readUInt16LE(4 * i + 2),
        ]);
        const expected = Array.from({ length: data.length / 2 }, (_, i) => [
          0,
          data.readUInt16LE(2 * i),
        ]);
        expect(values, name).toEqual(expected);
      } else if (!/[qk]_proj/.test(name)) {
        expect(stored.equals(data), name).toBe(true);
      }
      end = begin;
    }
    expect(end % 32).toBe(0);
  });

  it('leaves no file behind when a tensor is of a type it does not convert', async () => {
    const model = join(directory, 'model');
    mkdirSync(model);
    writeFileSync(join(model, 'config.json'), readFileSync(join(bundledModel, 'config.json')));
    const name = 'model.norm.weight';
    const data = Buffer.alloc(4);
    const tensors = new Map([[name, { dtype: 'F16', shape: [2], data }]]);
    writeSafetensors(join(model, 'model.safetensors'), tensors);
    const written = writeLlamaGguf(model, join(directory, 'model.gguf'));
    await expect(written).rejects.toThrow(`${name} is F16`);
    expect(readdirSync(directory)).toEqual(['model']);
  });
});
