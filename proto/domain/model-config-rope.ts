/** Rotary position settings of config.json: `rope_theta` with `rope_scaling`, or the newer `rope_parameters` that holds both. Pure. */
import { ConfigReader, configError } from './model-config-reader.ts';
import type { ModelSpec } from './model-spec.ts';

type RopeFields = Pick<
  ModelSpec,
  | 'ropeTheta'
  | 'ropeScaling'
  | 'ropeFactor'
  | 'ropeLowFrequencyFactor'
  | 'ropeHighFrequencyFactor'
  | 'ropeOriginalMaxPositions'
>;

export const unscaledRope: RopeFields = {
  ropeTheta: 10_000,
  ropeScaling: 'none',
  ropeFactor: 1,
  ropeLowFrequencyFactor: 1,
  ropeHighFrequencyFactor: 1,
  ropeOriginalMaxPositions: 0,
};

const thetaBounds = { low: 1, high: 1e12 };
const none: ReadonlySet<string> = new Set();

/** Reads what `config` says of RoPE; dynamic, yarn, longrope and partial rotation are refused by name. */
export function readRope(config: ConfigReader, maxPositions: number): RopeFields {
  config.mustBe('partial_rotary_factor', 1, 'every element of a head is rotated');
  const parameters = config.record('rope_parameters');
  const scaling = config.record('rope_scaling');
  const topTheta = config.number('rope_theta', { ...thetaBounds, otherwise: 10_000 });
  if (parameters !== null && scaling !== null) {
    throw configError('rope_scaling', scaling, 'give rope_parameters or rope_scaling, not both');
  }
  const record = parameters ?? scaling;
  if (record === null) return { ...unscaledRope, ropeTheta: topTheta };
  const name = parameters === null ? 'rope_scaling' : 'rope_parameters';
  const reader = new ConfigReader(record, `${name}.`);
  const fields = readScaling(reader, maxPositions);
  const ropeTheta = reader.number('rope_theta', { ...thetaBounds, otherwise: topTheta });
  reader.mustBe('partial_rotary_factor', 1, 'every element of a head is rotated');
  reader.refuseUnread(none, none);
  return { ...fields, ropeTheta };
}

function readScaling(reader: ConfigReader, maxPositions: number): RopeFields {
  const typed = reader.raw('rope_type') !== null ? 'rope_type' : 'type';
  const oldName = reader.raw('type');
  const kind = reader.word(typed, ['default', 'linear', 'llama3'] as const, 'default');
  if (oldName !== null && oldName !== kind) {
    throw configError(reader.path('type'), oldName, `it contradicts rope_type '${kind}'`);
  }
  if (kind === 'default') {
    reader.mustBe('factor', 1, 'rope_type default does not scale');
    return unscaledRope;
  }
  const ropeFactor = reader.number('factor', { low: 1, high: 1e6 });
  if (kind === 'linear') return { ...unscaledRope, ropeScaling: 'linear', ropeFactor };
  const ropeLowFrequencyFactor = reader.number('low_freq_factor', { low: 1e-6, high: 1e6 });
  const ropeHighFrequencyFactor = reader.number('high_freq_factor', { low: 1e-6, high: 1e6 });
  if (ropeHighFrequencyFactor <= ropeLowFrequencyFactor) {
    throw configError(
      reader.path('high_freq_factor'),
      ropeHighFrequencyFactor,
      `it must be greater than low_freq_factor (${ropeLowFrequencyFactor})`,
    );
  }
  return {
    ...unscaledRope,
    ropeScaling: 'llama3',
    ropeFactor,
    ropeLowFrequencyFactor,
    ropeHighFrequencyFactor,
    ropeOriginalMaxPositions: reader.integer('original_max_position_embeddings', {
      low: 1,
      high: maxPositions,
    }),
  };
}
