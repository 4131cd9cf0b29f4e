/** The shape of a benchmark and of its result: a few tables for people, and the same rows as JSON. */
export interface Table {
  title: string;
  /** In the order of the columns; the first row's keys are the headings. */
  rows: Record<string, string | number | boolean | null>[];
}

/** A figure with the bound that it was meant to meet. */
export interface Goal {
  name: string;
  measured: number;
  bound: { atLeast: number } | { atMost: number };
  met: boolean;
}

export interface Findings {
  tables: Table[];
  goals: Goal[];
  /** What a reader must know to read the figures: loads, limits, what was left out and why. */
  notes: string[];
}

export interface Benchmark {
  name: string;
  summary: string;
  /** Left out of a run of all; a goal that it misses is a failure. */
  onlyByName?: boolean;
  run(log: (line: string) => void): Promise<Findings>;
}

export function atLeast(name: string, measured: number, bound: number): Goal {
  return { name, measured, bound: { atLeast: bound }, met: measured >= bound };
}

export function atMost(name: string, measured: number, bound: number): Goal {
  return { name, measured, bound: { atMost: bound }, met: measured <= bound };
}

const significantDigits = 3;

/** Three significant digits, without an exponent. */
export function shown(value: number): number {
  return Number(value.toPrecision(significantDigits));
}

function cells(table: Table): string[][] {
  const headings = Object.keys(table.rows[0] ?? {});
  return [
    headings,
    ...table.rows.map((row) =>
      headings.map((heading) => {
        const value = row[heading];
        if (value === null || value === undefined) return '-';
        return typeof value === 'number' ? String(shown(value)) : String(value);
      }),
    ),
  ];
}

export function formatTable(table: Table): string {
  const lines = cells(table);
  const widths = (lines[0] ?? []).map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0)),
  );
  const text = lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return [table.title, ...text.map((line) => `  ${line}`)].join('\n');
}

export function formatGoal({ name, measured, bound, met }: Goal): string {
  const limit = 'atLeast' in bound ? `at least ${bound.atLeast}` : `at most ${bound.atMost}`;
  return `${met ? 'met   ' : 'MISSED'}  ${name}: ${shown(measured)} (goal: ${limit})`;
}
