/** The models with reference logits: short ones in the tree, long ones where HELS_SHARED points. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface GoldenModel {
  name: string;
  directory: string;
  golden: string;
}

const fixtures = fileURLToPath(new URL('../fixtures/goldens/', import.meta.url));
const root = fileURLToPath(new URL('../../', import.meta.url));

function modelsIn(folder: string, wanted: (name: string) => boolean): GoldenModel[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory() && wanted(entry.name));
  return names.map(({ name }) => {
    const directory = join(folder, name);
    return { name, directory, golden: join(directory, 'golden.json') };
  });
}

export const shortGoldens: readonly GoldenModel[] = modelsIn(fixtures, () => true);

const sharedGoldens = join(resolve(root, process.env['HELS_SHARED'] ?? '../shared'), 'goldens');

/** null when the shared folder is not there: a test then says that it skipped. */
export const longGoldens: readonly GoldenModel[] | null = existsSync(sharedGoldens)
  ? modelsIn(sharedGoldens, (name) => name.startsWith('long-'))
  : null;

/** Throws for a name the tree does not have. */
export function shortGolden(name: string): GoldenModel {
  const model = shortGoldens.find((candidate) => candidate.name === name);
  if (model === undefined) throw new Error(`test/fixtures/goldens has no ${name}`);
  return model;
}

/** A folder for changed copies of models; `remove` deletes it. */
export class ScratchModels {
  readonly folder = mkdtempSync(join(tmpdir(), 'hels-models-'));
  #count = 0;

  /** A writable copy of the model's directory. */
  copyOf(model: GoldenModel): string {
    const directory = this.empty(model.name);
    cpSync(model.directory, directory, { recursive: true });
    // The shared models are read-only, and copies keep their mode.
    for (const name of readdirSync(directory)) chmodSync(join(directory, name), 0o644);
    return directory;
  }

  /** A path that nothing is at. */
  empty(name: string): string {
    this.#count += 1;
    return join(this.folder, `${name}-${this.#count}`);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A model directory's config.json. */
export function configOf(directory: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >;
}

/** The same, to be changed. */
export function editConfig(
  directory: string,
  change: (config: Record<string, unknown>) => Record<string, unknown>,
): void {
  const file = join(directory, 'config.json');
  writeFileSync(file, JSON.stringify(change(configOf(directory)), null, 2));
}
