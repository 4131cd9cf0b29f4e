/** What 8 and 4 bits cost in fidelity: the distribution of the next token against the reference's, on models with reference logits. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readModelFiles } from '../../proto/base/model-files.ts';
import { type ModelSpecOptions, modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import { divergenceOf } from '../../worker/tools/divergence.ts';
import { LocalRanks } from '../../worker/tools/local-ranks.ts';
import { splitModel } from '../../worker/tools/split.ts';
import { verifyModel } from '../../worker/tools/verify.ts';
import { bundledModel } from '../support/daemons.ts';
import { longGoldens, shortGoldens } from '../support/golden-models.ts';
import { atMost, type Benchmark } from './benchmark.ts';

const forms: readonly { name: string; options: ModelSpecOptions }[] = [
  { name: 'bf16', options: { weightType: 'bf16' } },
  { name: 'int8', options: { quantization: 'int8' } },
  { name: 'int4', options: { quantization: 'int4' } },
];

interface Fidelity {
  klMean: number;
  topTokenAgreement: number;
}

async function logitsOf(
  directory: string,
  tokens: readonly number[],
  options: ModelSpecOptions,
): Promise<Float32Array[]> {
  const { config } = await readModelFiles(directory, { tokenizer: 'optional' });
  const model = modelSpecFromConfig(config, options);
  const ranks = await LocalRanks.start({
    ...{ directory, model, corruption: null },
    shards: splitModel(model, [{ headGroups: model.headGroups, ffnWeight: 1 }]),
    ...{ positionsMax: tokens.length, chunk: 256 },
  });
  try {
    return await ranks.logits(tokens, 0);
  } finally {
    await ranks.close();
  }
}

/** Tokens that the trained model itself finds likely: its vocabulary in the order of a text of its own tokenizer file. */
function textTokens(count: number): number[] {
  const tokenizer = JSON.parse(readFileSync(join(bundledModel, 'tokenizer.json'), 'utf8')) as {
    model: { vocab: Record<string, number> };
  };
  const { vocab } = tokenizer.model;
  const words = readFileSync(new URL('../../README.md', import.meta.url), 'utf8').split(/\s+/);
  const ids = words.flatMap((word) => vocab[`Ġ${word}`] ?? vocab[word] ?? []);
  return Array.from({ length: count }, (_, index) => ids[index % ids.length] ?? 0);
}

/** The bundled model, which is trained, against itself in f32. */
async function bundledFidelity(): Promise<Fidelity[]> {
  const tokens = textTokens(512);
  const reference = await logitsOf(bundledModel, tokens, { weightType: 'f32' });
  const rows: Fidelity[] = [];
  for (const { options } of forms) {
    rows.push(divergenceOf(reference, await logitsOf(bundledModel, tokens, options)));
  }
  return rows;
}

async function goldenFidelity(model: { directory: string; golden: string }): Promise<Fidelity[]> {
  const rows: Fidelity[] = [];
  for (const { options } of forms) {
    rows.push(
      await verifyModel({
        ...{ model: model.directory, golden: model.golden, ranks: null, chunk: null },
        dtype: options.weightType ?? 'auto',
        quantization: options.quantization ?? 'auto',
        corrupt: null,
      }),
    );
  }
  return rows;
}

function row(name: string, fidelity: readonly Fidelity[]): Record<string, string | number> {
  const cells = forms.flatMap((form, index) => [
    [`${form.name} KL`, fidelity[index]?.klMean ?? Number.NaN],
    [`${form.name} top-1 %`, 100 * (fidelity[index]?.topTokenAgreement ?? Number.NaN)],
  ]);
  return { model: name, ...(Object.fromEntries(cells) as Record<string, number>) };
}

export const quantization: Benchmark = {
  name: 'quantization',
  summary: 'KL divergence and top-1 agreement of int8 and int4 weights against reference logits',
  async run(log) {
    const bundled = await bundledFidelity();
    const rows = [row('hels-tiny (trained)', bundled)];
    for (const model of [...shortGoldens, ...(longGoldens ?? [])]) {
      log(model.name);
      rows.push(row(model.name, await goldenFidelity(model)));
    }
    const [, int8, int4] = bundled;
    return {
      tables: [{ title: 'nats, mean over the positions; share of equal best tokens', rows }],
      goals: [
        atMost('KL of int8, trained model', int8?.klMean ?? Number.NaN, 0.002),
        atMost('KL of int4, trained model', int4?.klMean ?? Number.NaN, 0.2),
      ],
      notes: [
        'hels-tiny is held against itself in f32, the others against the reference logits beside them (24 positions each).',
        'All but hels-tiny have random weights, 64 to 96 wide: their distributions are nearly flat, and rounding noise is not averaged away as in trained or wider models.',
      ],
    };
  },
};
