import type { LatencyLine, LinkLine } from '../../proto/domain/plan.ts';
import type { BucketError } from '../../proto/gen/hels/v1/BucketError.ts';
import type { PhaseProfile } from '../../proto/gen/hels/v1/PhaseProfile.ts';
import type { ProfileReport } from '../../proto/gen/hels/v1/ProfileReport.ts';
import type { WorkerProfile } from '../../proto/gen/hels/v1/WorkerProfile.ts';
import type { BucketErrors, FitErrors } from '../profiler/fit-errors.ts';
import type { PhaseFit } from '../profiler/fit-phase.ts';
import type { GroupWorker } from './group-worker.ts';
import type { ProfileRun } from './profile-workers.ts';

function bucketOf(tokens: number, errors: FitErrors): BucketError {
  return {
    tokens,
    points: errors.points,
    meanPercent: errors.meanAbsolutePercent,
    medianPercent: errors.medianAbsolutePercent,
    percentile95Percent: errors.percentile95AbsolutePercent,
  };
}

const heldOutOf = (fit: { heldOut: FitErrors; buckets: readonly BucketErrors[] }) => [
  bucketOf(0, fit.heldOut),
  ...fit.buckets.map((bucket) => bucketOf(bucket.tokens, bucket)),
];

function phaseOf(phase: string, fit: PhaseFit): PhaseProfile {
  return {
    phase,
    lines: fit.lines.map((line: LatencyLine) => ({ ...line })),
    points: fit.residualSeconds.length,
    conditionNumber: fit.conditionNumber,
    unidentifiedTerms: [...fit.unidentified],
    heldOut: heldOutOf(fit),
  };
}

function workerOf(worker: GroupWorker, run: ProfileRun, link: LinkLine | undefined): WorkerProfile {
  const { decode, prefill, mixed } = run.fit.phases;
  return {
    workerId: worker.id,
    device: worker.device,
    stored: run.stored,
    measuredUnixMs: Math.round(run.measuredUnixMs),
    seconds: run.spentSeconds,
    copyBytesPerSecond: run.copyBytesPerSecond,
    phases: [
      phaseOf('decode', decode),
      phaseOf('prefill', prefill),
      {
        phase: 'mixed',
        lines: [{ perContextHeadGroup: mixed.perContextHeadGroup }],
        points: mixed.residualSeconds.length,
        conditionNumber: 1,
        unidentifiedTerms: [],
        heldOut: heldOutOf(mixed),
      },
    ],
    linkConstant: link?.constant ?? 0,
    linkPerToken: link?.perToken ?? 0,
  };
}

export function profileReportOf(
  modelId: string,
  workers: readonly GroupWorker[],
  runs: ReadonlyMap<string, ProfileRun>,
  links: ReadonlyMap<string, LinkLine>,
): ProfileReport {
  return {
    modelId,
    workers: workers.flatMap((worker) => {
      const run = runs.get(worker.id);
      return run === undefined ? [] : [workerOf(worker, run, links.get(worker.id))];
    }),
  };
}
