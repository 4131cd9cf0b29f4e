/** Reference logits of a model (golden.json): checked when read, and against the model before they are used. */
import { readFile } from 'node:fs/promises';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';

export interface Golden {
  file: string;
  inputIds: number[];
  /** Position of the first row of `logits`. */
  logitsFromPosition: number;
  /** (positions, vocabulary) */
  logits: number[][];
  greedy: {
    prompt: number[];
    tokens: number[];
    /** Top-1 minus top-2 logit at each step; null when the file has none. */
    margins: number[] | null;
  };
}

/** Throws model-invalid naming the file and the field. */
export async function readGolden(file: string): Promise<Golden> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw invalid(
      file,
      error.code === 'ENOENT' ? 'is missing' : `cannot be read: ${error.message}`,
    );
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalid(file, `is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  return new GoldenReader(file).read(json);
}

/** Throws model-invalid where the golden is not of this model: other width, foreign ids, more tokens than positions. */
export function checkGoldenFits(golden: Golden, model: ModelSpec): void {
  const { file, inputIds, greedy } = golden;
  const refuse = (field: string, problem: string) =>
    invalidField(file, field, `${problem}; use the golden made from this model`);
  const width = golden.logits[0]?.length;
  if (width !== model.vocabRows) {
    throw refuse('logits', `have ${width} columns; the model's vocab_size is ${model.vocabRows}`);
  }
  const lists = {
    input_ids: inputIds,
    'greedy.prompt': greedy.prompt,
    'greedy.tokens': greedy.tokens,
  };
  for (const [field, ids] of Object.entries(lists)) {
    const index = ids.findIndex((id) => id >= model.vocabRows);
    if (index >= 0) {
      const problem = `is ${ids[index]}; the model's vocab_size is ${model.vocabRows}`;
      throw refuse(`${field}[${index}]`, problem);
    }
  }
  // The last greedy token is sampled, not fed.
  const fed = {
    input_ids: inputIds.length,
    greedy: greedy.prompt.length + greedy.tokens.length - 1,
  };
  for (const [field, count] of Object.entries(fed)) {
    if (count > model.maxPositions) {
      throw refuse(
        field,
        `has ${count} tokens to feed; the model has ${model.maxPositions} positions`,
      );
    }
  }
}

class GoldenReader {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  read(json: unknown): Golden {
    if (!isRecord(json)) throw invalid(this.#file, 'must be an object');
    const greedy = json['greedy'];
    if (!isRecord(greedy)) throw this.#invalid('greedy', 'must be an object');
    const inputIds = this.#ids(json['input_ids'], 'input_ids');
    const logitsFromPosition = json['logits_from_position'] ?? 0;
    if (!isWhole(logitsFromPosition)) {
      const shown = JSON.stringify(logitsFromPosition);
      throw this.#invalid('logits_from_position', `is ${shown}; it must be a position`);
    }
    const logits = this.#rows(json['logits']);
    if (logitsFromPosition + logits.length !== inputIds.length) {
      const rows = `has ${logits.length} rows from position ${logitsFromPosition}`;
      throw this.#invalid(
        'logits',
        `${rows}; they must end at the last of the ${inputIds.length} input_ids`,
      );
    }
    const tokens = this.#ids(greedy['tokens'], 'greedy.tokens');
    return {
      file: this.#file,
      inputIds,
      logitsFromPosition,
      logits,
      greedy: {
        prompt: this.#ids(greedy['prompt'], 'greedy.prompt'),
        tokens,
        margins: this.#margins(greedy['margins'] ?? null, tokens.length),
      },
    };
  }

  #rows(value: unknown): number[][] {
    if (!Array.isArray(value) || value.length === 0) {
      throw this.#invalid('logits', 'must hold at least one row');
    }
    const rows = value.map((row: unknown, index) => this.#numbers(row, `logits[${index}]`));
    const width = rows[0]?.length ?? 0;
    const ragged = rows.findIndex((row) => row.length !== width);
    if (ragged >= 0) {
      const columns = `has ${rows[ragged]?.length} columns`;
      throw this.#invalid(`logits[${ragged}]`, `${columns}; the first row has ${width}`);
    }
    return rows;
  }

  #margins(value: unknown, count: number): number[] | null {
    if (value === null) return null;
    const margins = this.#numbers(value, 'greedy.margins');
    if (margins.length !== count) {
      throw this.#invalid(
        'greedy.margins',
        `has ${margins.length} entries; there are ${count} tokens`,
      );
    }
    return margins;
  }

  #ids(value: unknown, field: string): number[] {
    const ids = this.#numbers(value, field);
    const index = ids.findIndex((id) => !isWhole(id));
    if (index >= 0) {
      throw this.#invalid(
        `${field}[${index}]`,
        `is ${ids[index]}; a token id is a whole number from 0 to ${idMax}`,
      );
    }
    return ids;
  }

  #numbers(value: unknown, field: string): number[] {
    const good =
      Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'number');
    if (!good) throw this.#invalid(field, 'must be an array of numbers with at least one entry');
    return value as number[];
  }

  #invalid(field: string, problem: string): HelsError {
    return invalidField(this.#file, field, problem);
  }
}

/** What the engine's arrays of token ids and positions can hold. */
const idMax = 2 ** 31 - 1;

function isWhole(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= idMax;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(file: string, problem: string): HelsError {
  return new HelsError('model-invalid', `${file} ${problem}`, { field: file });
}

function invalidField(file: string, field: string, problem: string): HelsError {
  return new HelsError('model-invalid', `${file}: ${field} ${problem}`, { field });
}
