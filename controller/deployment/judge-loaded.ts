import type { Corrections } from './corrections.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { byHost } from './group-worker.ts';
import { type MeasuredSteps, plannedRanksOf } from './plan-report.ts';
import { judgeTrial } from './trial.ts';

/** The trial of a group that has been warmed up; null: its plan stays. */
export function judgeLoaded(
  loaded: LoadedGroup,
  measured: MeasuredSteps,
  nowMs: () => number,
): Corrections | null {
  const hosts = byHost(loaded.candidates).flatMap((host, index) =>
    host.map(({ id }): [string, string] => [id, String(index)]),
  );
  return judgeTrial({
    input: loaded.input,
    ranks: plannedRanksOf(loaded.shardPlan),
    measured,
    hostOf: new Map(hosts),
    nowMs,
  });
}
