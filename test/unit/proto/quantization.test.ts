import { describe, expect, test } from 'vitest';
import { compileProblem } from '../../../controller/planner/problem.ts';
import { weightBytes } from '../../../controller/planner/share-bytes.ts';
import { planModel } from '../../../controller/profiler/plan-input.ts';
import { modelSpecFromConfig } from '../../../proto/domain/model-config.ts';
import {
  quantizationConfig,
  quantizationOptions,
  quantizedBytesPerWeight,
} from '../../../proto/domain/quantization.ts';
import { quantizedMatrices, targetTensors } from '../../../worker/tools/quantized-tensors.ts';
import { modelSpec } from '../../support/model-spec.ts';

const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32_000,
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 22,
  num_attention_heads: 32,
  num_key_value_heads: 4,
  max_position_embeddings: 2048,
  torch_dtype: 'float16',
};

describe('quantization of a config', () => {
  test('as the files are, or at load; what is left is bf16', () => {
    expect(modelSpecFromConfig(config)).toMatchObject({ quantization: 'none', weightType: 'f16' });
    expect(modelSpecFromConfig(config, { quantization: 'int4' })).toMatchObject({
      quantization: 'int4',
      weightType: 'bf16',
    });
    const stored = { ...config, quantization_config: quantizationConfig('int8') };
    for (const quantization of ['auto', 'int8'] as const) {
      expect(modelSpecFromConfig(stored, { quantization })).toMatchObject({
        quantization: 'int8',
        weightType: 'bf16',
      });
    }
  });

  test('files of other bits, and other types beside them, are refused', () => {
    const stored = { ...config, quantization_config: quantizationConfig('int8') };
    expect(() => modelSpecFromConfig(stored, { quantization: 'int4' })).toThrow(/int8 already/);
    expect(() => modelSpecFromConfig(config, { quantization: 'int8', weightType: 'f32' })).toThrow(
      /weight type f32: quantised weights need bf16/,
    );
    expect(quantizationOptions).toEqual(['auto', 'int8', 'int4']);
  });
});

describe('memory', () => {
  test('a scale in 32 weights; more where groups are not full', () => {
    expect(quantizedBytesPerWeight('int8', 2048)).toBe(1 + 2 / 32);
    expect(quantizedBytesPerWeight('int4', 2048)).toBe(0.5 + 2 / 32);
    expect(quantizedBytesPerWeight('int4', 5632, 352)).toBe(0.5 + 2 / 32);
    // Granules of 48: groups of 32 and 16.
    expect(quantizedBytesPerWeight('int8', 768, 48)).toBe(1 + 4 / 48);
    // 18 inputs of 4 bits take three units of 8.
    expect(quantizedBytesPerWeight('int4', 54, 18)).toBe((2 + 12) / 18);
  });

  test('the planner prices embedding, layers and head apart', () => {
    const model = modelSpecFromConfig(config, { quantization: 'int4' });
    expect(planModel(model)).toMatchObject({
      weightBytesPerParam: 0.5625,
      embeddingBytesPerParam: 2,
      headBytesPerParam: 1.0625,
      kvBytesPerElement: 2,
    });
    const device = { id: 'a', memoryBytes: 1e10, reservedBytes: 0, decode: {}, prefill: {} };
    const problem = compileProblem({
      model: planModel(model),
      workload: { sequences: 1, contextTokens: 1, prefillChunk: 1, outputTokens: 1 },
      devices: [device],
    });
    const layer = 2048 * 64 * (2 * 32 + 2 * 4) + 3 * 2048 * 5632;
    const all = { headGroups: 4, ffnColumns: 5632, vocabRows: 32_000 };
    expect(weightBytes(problem, all)).toBe(22 * layer * 0.5625 + 32_000 * 2048 * (2 + 1.0625));
  });
});

describe('tensors of quantised files', () => {
  test('whole groups of every granule; the head has 8 bits; tables are bf16, vectors as they are', () => {
    const model = modelSpec({ quantization: 'int4' });
    const matrices = quantizedMatrices(model);
    expect(matrices.size).toBe(2 * 7 + 1);
    const stored = [...matrices.keys()].map((base) => ({
      ...{ name: `${base}.weight`, file: '', type: 'f32', shape: [64, 64], sizeBytes: 64 * 64 * 4 },
    }));
    const norm = { name: 'model.norm.weight', file: '', type: 'f32', shape: [64], sizeBytes: 256 };
    const table = {
      ...norm,
      name: 'model.embed_tokens.weight',
      shape: [50, 64],
      sizeBytes: 12_800,
    };
    const targets = targetTensors(model, [...stored, norm, table]);
    const byName = new Map(targets.map((target) => [target.name, target]));
    expect(byName.get('model.layers.0.self_attn.o_proj.scales')).toMatchObject({
      dtype: 'F16',
      shape: [64, 4],
    });
    expect(byName.get('model.layers.0.mlp.down_proj.scales')).toMatchObject({ shape: [64, 8] });
    expect(byName.get('model.layers.1.mlp.up_proj.qweight')).toMatchObject({
      dtype: 'U8',
      shape: [64, 32],
    });
    expect(byName.get('lm_head.qweight')).toMatchObject({ dtype: 'I8', shape: [64, 64] });
    expect(byName.get('model.norm.weight')).toMatchObject({ kind: 'copy', dtype: 'F32' });
    expect(byName.get('model.embed_tokens.weight')).toMatchObject({ kind: 'bf16', dtype: 'BF16' });
    expect(() => targetTensors(model, [norm, table])).toThrow(/q_proj.weight' is missing/);
  });
});
