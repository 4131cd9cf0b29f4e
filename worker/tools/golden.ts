/** Reference logits of a model (golden.json): checked when read. */
import { readFile } from 'node:fs/promises';
import { HelsError } from '../../proto/domain/errors.ts';

export interface Golden {
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
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw invalid(file, 'the file', `cannot be read: ${String(error)}`);
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalid(file, 'the file', `is not JSON: ${String(error)}`);
  }
  return checkGolden(json, file);
}

export function checkGolden(json: unknown, file: string): Golden {
  const record = asRecord(json, file, 'the file');
  const greedy = asRecord(record['greedy'], file, 'greedy');
  const inputIds = numbers(record['input_ids'], file, 'input_ids');
  const logits = record['logits'];
  const from = record['logits_from_position'] ?? 0;
  if (!Array.isArray(logits) || logits.length === 0) {
    throw invalid(file, 'logits', 'must hold at least one row');
  }
  const rows = logits.map((row: unknown, index) => numbers(row, file, `logits[${index}]`));
  if (typeof from !== 'number' || from + rows.length !== inputIds.length) {
    throw invalid(
      file,
      'logits',
      `has ${rows.length} rows from position ${String(from)}; they must end at the last of the ${inputIds.length} input_ids`,
    );
  }
  const margins = greedy['margins'] ?? null;
  return {
    inputIds,
    logitsFromPosition: from,
    logits: rows,
    greedy: {
      prompt: numbers(greedy['prompt'], file, 'greedy.prompt'),
      tokens: numbers(greedy['tokens'], file, 'greedy.tokens'),
      margins: margins === null ? null : numbers(margins, file, 'greedy.margins'),
    },
  };
}

function asRecord(value: unknown, file: string, field: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(file, field, 'must be an object');
  }
  return value as Record<string, unknown>;
}

function numbers(value: unknown, file: string, field: string): number[] {
  const good =
    Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'number');
  if (!good) throw invalid(file, field, 'must be an array of numbers with at least one entry');
  return value as number[];
}

function invalid(file: string, field: string, problem: string): HelsError {
  return new HelsError('model-invalid', `${file}: ${field} ${problem}`, { field });
}
