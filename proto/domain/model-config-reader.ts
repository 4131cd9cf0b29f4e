/** Reads a config.json field by field, remembers what was read, and refuses what is left over. Pure. */
import { HelsError } from './errors.ts';

export type ConfigRecord = Readonly<Record<string, unknown>>;

export function isRecord(value: unknown): value is ConfigRecord {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A model-invalid error about one field of config.json. */
export function configError(path: string, value: unknown, problem: string): HelsError {
  const shown = value === undefined ? 'missing' : JSON.stringify(value).slice(0, 120);
  return new HelsError('model-invalid', `config.json: ${path} is ${shown}; ${problem}`, {
    field: path,
  });
}

interface NumberBounds {
  low: number;
  high: number;
  /** The value of the family's configuration class when the field is absent; without one the field is required. */
  otherwise?: number;
}

export class ConfigReader {
  readonly #record: ConfigRecord;
  readonly #prefix: string;
  readonly #read = new Set<string>();

  constructor(record: ConfigRecord, prefix = '') {
    this.#record = record;
    this.#prefix = prefix;
  }

  path(name: string): string {
    return `${this.#prefix}${name}`;
  }

  /** null and absent are the same: Hugging Face writes both for "not set". */
  raw(name: string): unknown {
    this.#read.add(name);
    return this.#record[name] ?? null;
  }

  /** True when the field is written, even as null: some families give "absent" another meaning. */
  has(name: string): boolean {
    return Object.hasOwn(this.#record, name);
  }

  integer(name: string, bounds: NumberBounds): number {
    return this.#number(name, bounds, true);
  }

  number(name: string, bounds: NumberBounds): number {
    return this.#number(name, bounds, false);
  }

  boolean(name: string, otherwise: boolean): boolean {
    const value = this.raw(name) ?? otherwise;
    if (typeof value !== 'boolean')
      throw configError(this.path(name), value, 'write true or false');
    return value;
  }

  /** One of `allowed`; the error lists them. */
  word<Word extends string>(name: string, allowed: readonly Word[], otherwise: Word): Word {
    const value = this.raw(name) ?? otherwise;
    const found = allowed.find((word) => word === value);
    if (found === undefined) {
      throw configError(
        this.path(name),
        value,
        `Hels computes ${allowed.join(', ')} here; use a model with one of them`,
      );
    }
    return found;
  }

  /** A field whose every other value would change the arithmetic in a way Hels does not compute. */
  mustBe(name: string, expected: boolean | number, why: string): void {
    const value = this.raw(name);
    if (value !== null && value !== expected) {
      throw configError(
        this.path(name),
        value,
        `only ${JSON.stringify(expected)} is supported (${why})`,
      );
    }
  }

  record(name: string): ConfigRecord | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (!isRecord(value)) throw configError(this.path(name), value, 'write an object or null');
    return value;
  }

  /**
   * Refuses every field nobody read, unless it is known to be harmless, null, or the false of a feature known to be off then: false of
   * a feature that is on by default changes the arithmetic as well as true of another.
   */
  refuseUnread(harmless: ReadonlySet<string>, features: ReadonlySet<string>): void {
    for (const [name, value] of Object.entries(this.#record)) {
      const off = value === null || (value === false && features.has(name));
      if (off || this.#read.has(name) || harmless.has(name)) continue;
      throw configError(
        this.path(name),
        value,
        'Hels does not know this field, and it may change the arithmetic; if it does not, remove it from config.json, otherwise this model cannot be served',
      );
    }
  }

  #number(name: string, { low, high, otherwise }: NumberBounds, whole: boolean): number {
    const value = this.raw(name) ?? otherwise;
    if (
      typeof value !== 'number' ||
      !(value >= low && value <= high) ||
      (whole && !Number.isInteger(value))
    ) {
      const kind = whole ? 'a whole number' : 'a number';
      throw configError(this.path(name), value, `it must be ${kind} from ${low} to ${high}`);
    }
    return value;
  }
}
