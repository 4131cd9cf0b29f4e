import type { DeployOptions, HelsClient, PlanReport } from '../sdk/index.ts';
import { HelsError } from '../sdk/index.ts';
import type { Output } from './output.ts';

/**
 * Tells which progress events a log wants: the first of each activity, then one per quarter of its way. Activities are told apart by
 * their message, so that workers measured at once do not flood it in turns.
 */
export function milestones(): (activity: string, fraction: number) => boolean {
  const quarters = new Map<string, number>();
  return (activity, fraction) => {
    const quarter = Math.floor(fraction * 4);
    if (quarter <= (quarters.get(activity) ?? -1)) return false;
    quarters.set(activity, quarter);
    return true;
  };
}

/** Deploys and shows each phase as it comes; resolves to the plan being served. */
export async function deployWithProgress(
  client: HelsClient,
  options: DeployOptions,
  output: Output,
  signal: AbortSignal,
): Promise<PlanReport> {
  const isMilestone = milestones();
  for await (const event of client.deploy(options, { signal })) {
    if (event.type === 'ready') return event.report;
    const percent = event.fraction > 0 ? ` ${Math.round(event.fraction * 100)} %` : '';
    output.progress(
      `${event.phase.padEnd(11)} ${event.message}${percent}`,
      isMilestone(`${event.phase} ${event.message}`, event.fraction),
    );
  }
  throw new HelsError('internal', 'the deployment ended without a result');
}
