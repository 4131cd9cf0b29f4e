/** What systemd would run for a unit file, with every path below a staging root: as much of its syntax as the units of Hels use. */
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';

export interface UnitCommand {
  program: string;
  parameters: string[];
  environment: Record<string, string>;
}

export interface UnitContext {
  /** What stands after the @ in the unit's name. */
  instance: string;
  /** Prefixes of paths that lie below the staging root. */
  staged: readonly string[];
  root: string;
  /** What systemd itself sets, for example STATE_DIRECTORY. */
  environment: Record<string, string>;
}

function valuesOf(unit: string, key: string): string[] {
  return unit
    .split('\n')
    .filter((line) => line.startsWith(`${key}=`))
    .map((line) => line.slice(key.length + 1));
}

function assignments(lines: readonly string[]): Record<string, string> {
  const pairs = lines
    .filter((line) => /^[A-Za-z_]\w*=/.test(line))
    .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)] as const);
  return Object.fromEntries(pairs);
}

/** Throws when the unit has other than one ExecStart, or names an environment file that is missing without the leading dash. */
export function unitCommand(unitFile: string, context: UnitContext): UnitCommand {
  const text = readFileSync(unitFile, 'utf8')
    .replaceAll('%i', context.instance)
    .replaceAll('%H', hostname());
  const stagedPath = (path: string) =>
    context.staged.some((prefix) => path.startsWith(prefix)) ? `${context.root}${path}` : path;

  const environment = { ...context.environment, ...assignments(valuesOf(text, 'Environment')) };
  for (const value of valuesOf(text, 'EnvironmentFile')) {
    const file = stagedPath(value.replace(/^-/, ''));
    if (value.startsWith('-') && !existsSync(file)) continue;
    Object.assign(environment, assignments(readFileSync(file, 'utf8').split('\n')));
  }
  const commands = valuesOf(text, 'ExecStart');
  if (commands.length !== 1) throw new Error(`${unitFile} has ${commands.length} ExecStart lines`);
  const words = (commands[0] ?? '').split(' ').map((word) =>
    stagedPath(
      word.replace(/\$\{(\w+)\}/g, (_, name: string) => {
        const value = environment[name];
        if (value === undefined) throw new Error(`${unitFile}: ${name} is not set`);
        return value;
      }),
    ),
  );
  const [program = '', ...parameters] = words;
  return { program, parameters, environment };
}
