import type { DeployOptions, HelsClient, PlanReport } from '../sdk/index.ts';
import { HelsError } from '../sdk/index.ts';
import type { Output } from './output.ts';

/** Deploys and shows each phase as it comes; resolves to the plan being served. */
export async function deployWithProgress(
  client: HelsClient,
  options: DeployOptions,
  output: Output,
  signal: AbortSignal,
): Promise<PlanReport> {
  for await (const event of client.deploy(options, { signal })) {
    if (event.type === 'ready') return event.report;
    const percent = event.fraction > 0 ? ` ${Math.round(event.fraction * 100)} %` : '';
    output.progress(`${event.phase.padEnd(11)} ${event.message}${percent}`);
  }
  throw new HelsError('internal', 'the deployment ended without a result');
}
