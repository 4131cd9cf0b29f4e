import { HelsError } from '../../proto/domain/errors.ts';
import type { LinkLine } from '../../proto/domain/plan.ts';
import { fitNonNegative, settledRounds } from './fit-line.ts';
import { identify } from './identify.ts';

/**
 * Seconds of one step's collectives as constant + perToken*tokens, from measured steps (relative errors, coefficients >= 0). With one
 * distinct token count all is constant. Throws config-invalid when the lists differ or a time is not above 0.
 */
export function fitLink(tokens: readonly number[], seconds: readonly number[]): LinkLine {
  const wrong = seconds.findIndex((value) => !(value > 0 && Number.isFinite(value)));
  if (tokens.length === 0 || tokens.length !== seconds.length || wrong >= 0) {
    throw new HelsError(
      'config-invalid',
      `link probe: ${tokens.length} token counts and ${seconds.length} times` +
        `${wrong >= 0 ? `, seconds[${wrong}] is ${seconds[wrong]}` : ''}; ` +
        'there must be one finite time above 0 for each of at least one token count',
      { field: 'seconds' },
    );
  }
  const design = tokens.map((count) => [1, count]);
  const relative = design.map((row, index) =>
    row.map((value) => value / (seconds[index] as number)),
  );
  const [constant = 0, perToken = 0] = fitNonNegative(
    design,
    seconds,
    identify(relative).kept,
    settledRounds,
  );
  return { constant, perToken };
}
