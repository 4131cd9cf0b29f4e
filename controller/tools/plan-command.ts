import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput } from '../../proto/domain/plan.ts';
import { plan } from '../planner/plan.ts';
import { planTable } from './plan-table.ts';

/** Bytes of an input file; far above any real one. */
const inputBytesMax = 64 * 2 ** 20;

const causeText = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

async function readStandardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > inputBytesMax) break;
  }
  return Buffer.concat(chunks);
}

async function readInput(path: string): Promise<unknown> {
  const refuse = (problem: string): never => {
    throw new HelsError('config-invalid', `--input: ${path} ${problem}`, { field: '--input' });
  };
  let content: Buffer;
  try {
    content = path === '-' ? await readStandardInput() : await readFile(path);
  } catch (error) {
    return refuse(`cannot be read: ${causeText(error)}`);
  }
  if (content.length > inputBytesMax) return refuse(`is larger than ${inputBytesMax} bytes`);
  try {
    return JSON.parse(content.toString('utf8')) as unknown;
  } catch (error) {
    return refuse(`is not JSON: ${causeText(error).replaceAll('\n', ' ')}`);
  }
}

interface PlanOptions {
  readonly input: string;
  readonly policy: string | undefined;
  readonly json: boolean;
}

function parseOptions(args: readonly string[]): PlanOptions {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        input: { type: 'string' },
        policy: { type: 'string' },
        json: { type: 'boolean', default: false },
      },
    });
    const { input, policy, json } = values;
    if (input !== undefined) return { input, policy, json };
  } catch (error) {
    throw new HelsError('usage', causeText(error), { cause: error });
  }
  throw new HelsError(
    'usage',
    '--input is missing; name the plan input file, or - for standard input',
    { field: '--input' },
  );
}

/**
 * `plan --input FILE [--policy NAME] [--json]`: the text to print. An infeasible plan is an answer, not an error. Throws usage for a
 * wrong command line and config-invalid for an input that cannot be read or is wrong. `nowMs` times the solver.
 */
export async function planCommand(args: readonly string[], nowMs: () => number): Promise<string> {
  const { input: path, policy, json } = parseOptions(args);
  const input = await readInput(path);
  const overridden =
    policy === undefined || typeof input !== 'object' || input === null
      ? input
      : { ...input, policy };
  // The planner checks every field itself.
  const output = plan(overridden as PlanInput, nowMs);
  return json ? `${JSON.stringify(output, null, 2)}\n` : planTable(output);
}
