/**
 * Random schedules, with priorities and re-plans, through real daemons whose KV has not room for them: parked, dropped, lent, or not
 * admitted. Every answer must be the one that the request gets alone on a worker with room for everything.
 */
import type { DeployOptions } from '../../client/sdk/index.ts';
import { bundledModel, bundledModelId, idle } from '../support/daemons.ts';
import { atLeast, atMost, type Benchmark, type Goal } from './benchmark.ts';
import { type BenchCluster, withCluster } from './cluster.ts';
import { difference, type KvCounters, readCounters } from './residency/counters.ts';
import {
  ask,
  play,
  type Question,
  questionsOf,
  ranksOf,
  replansOf,
  scheduleOf,
} from './residency/schedules.ts';

/** HELS_SOAK_SCHEDULES: how many in all. */
const schedulesMin = Number(process.env['HELS_SOAK_SCHEDULES'] ?? 56);
const questionCount = 80;
const seed = 20_261_126;

interface Setting {
  name: string;
  devices: string[];
  headGroups: number[];
  /** Re-plans in the middle of each schedule go there, and back. */
  otherHeadGroups?: number[];
  options: Pick<DeployOptions, 'kvPolicy' | 'workload'>;
  requests: number;
  /** What must have happened by its end. */
  exercises: 'reloadedTokens' | 'replayedTokens' | 'remoteSeconds' | 'recalledTokens' | null;
}

const workload = { sequences: 4, contextTokens: 128 };
const small = (host: string) => `cpu?threads=1&memory=22MiB${host}`;
const parked = [small('&host=4MiB'), small('&host=4MiB')];
const fewParked = [small('&host=64KiB'), small('&host=64KiB')];
const lent = ['cpu?threads=1&memory=23MiB', 'cpu?threads=1&memory=40MiB', 'cpu?threads=1'];
const remote = { ...workload, allowRemoteKv: true };

const settings: readonly Setting[] = [
  {
    ...{ name: 'parked in host memory', devices: parked, headGroups: [6, 2], requests: 40 },
    ...{ options: { workload }, exercises: 'reloadedTokens', otherHeadGroups: [4, 4] },
  },
  {
    ...{ name: 'few parked blocks', devices: fewParked },
    ...{ headGroups: [4, 4], requests: 40, options: { workload }, exercises: 'replayedTokens' },
    otherHeadGroups: [6, 2],
  },
  {
    ...{ name: 'dropped', devices: [small(''), small('')], headGroups: [6, 2], requests: 40 },
    ...{ options: { workload }, exercises: 'replayedTokens', otherHeadGroups: [5, 3] },
  },
  {
    ...{ name: 'lent', devices: lent, headGroups: [6, 1, 1], requests: 40 },
    ...{ options: { workload: remote }, exercises: 'recalledTokens', otherHeadGroups: [5, 2, 1] },
  },
  {
    name: 'lent and parked',
    devices: ['cpu?threads=1&memory=23MiB&host=8MiB', 'cpu?threads=1&memory=24MiB&host=8MiB'],
    ...{ headGroups: [6, 2], requests: 40, otherHeadGroups: [5, 3] },
    ...{ options: { workload: remote }, exercises: 'reloadedTokens' },
  },
  {
    ...{ name: 'whole replay', devices: parked, headGroups: [6, 2], requests: 40 },
    ...{ options: { workload, kvPolicy: 'replay' }, exercises: 'replayedTokens' },
  },
  {
    ...{ name: 'room set aside', devices: parked, headGroups: [6, 2], requests: 40 },
    ...{ options: { workload, kvPolicy: 'reserve' }, exercises: null },
  },
  {
    ...{ name: 'slots', devices: parked, headGroups: [6, 2], requests: 40 },
    ...{ options: { workload, kvPolicy: 'slots' }, exercises: null },
  },
];

/** Each alone, on one worker with room for all. */
async function knownAnswers(questions: readonly Question[]): Promise<number[][]> {
  return await withCluster([{ device: 'cpu?threads=1', core: null }], null, async (cluster) => {
    await cluster.deploy({ modelPath: bundledModel, prefixCache: false });
    const answers: number[][] = [];
    for (const question of questions) answers.push(await ask(cluster.cluster.client, question));
    return answers;
  });
}

interface Played {
  setting: Setting;
  schedules: number;
  requests: number;
  cancelled: number;
  different: number;
  failures: string[];
  replans: number;
  migrations: number;
  refusedReplans: number;
  counters: KvCounters;
}

async function playSetting(
  cluster: BenchCluster,
  setting: Setting,
  schedules: number,
  questions: readonly Question[],
  known: readonly (readonly number[])[],
  firstSeed: number,
): Promise<Played> {
  const { headGroups, otherHeadGroups, options } = setting;
  const splits = otherHeadGroups === undefined ? [headGroups] : [headGroups, otherHeadGroups];
  const ranks = ranksOf(headGroups);
  const { client, httpUrl } = cluster.cluster;
  await cluster.deploy({ modelPath: bundledModel, workersMin: ranks.length, ranks, ...options });
  const before = await readCounters(httpUrl);
  const played: Omit<Played, 'counters'> = {
    ...{ setting, schedules, requests: 0, cancelled: 0, different: 0 },
    ...{ failures: [], replans: 0, migrations: 0, refusedReplans: 0 },
  };
  for (let index = 0; index < schedules; index += 1) {
    const schedule = scheduleOf(firstSeed + index, setting.requests, questions.length);
    const replans = replansOf(firstSeed + index, splits);
    const outcome = await play(client, schedule, questions, known, replans);
    played.requests += schedule.length;
    played.cancelled += outcome.cancelled;
    played.different += outcome.different;
    played.replans += outcome.replans;
    played.migrations += outcome.migrations;
    played.refusedReplans += outcome.refusedReplans;
    played.failures.push(...outcome.failures);
    // Throws when a block does not come back.
    await idle(client);
  }
  const counters = difference(await readCounters(httpUrl), before);
  await client.undeploy(bundledModelId);
  return { ...played, counters };
}

const rowOf = ({ setting, failures, counters, ...played }: Played) => ({
  setting: setting.name,
  schedules: played.schedules,
  requests: played.requests,
  cancelled: played.cancelled,
  different: played.different,
  failed: failures.length,
  're-plans': played.replans,
  'with KV kept': played.migrations,
  're-plans refused': played.refusedReplans,
  preempted: counters.preempted,
  'reloaded tokens': counters.reloadedTokens,
  'replayed tokens': counters.replayedTokens,
  'of these by choice': counters.droppedByChoiceTokens,
  'recalled tokens': counters.recalledTokens,
  'exchange s': counters.remoteSeconds,
});

export const residencySchedules: Benchmark = {
  name: 'residency-schedules',
  summary:
    'random schedules and re-plans through real daemons without room for their KV: every answer the same',
  onlyByName: true,
  async run(log) {
    const questions = questionsOf(questionCount, seed);
    log(`${questions.length} requests, each alone`);
    const known = await knownAnswers(questions);
    const each = Math.ceil(schedulesMin / settings.length);
    const all: Played[] = [];
    for (const [index, setting] of settings.entries()) {
      log(`${setting.name}: ${each} schedules`);
      const devices = setting.devices.map((device) => ({ device, core: null }));
      all.push(
        await withCluster(devices, null, (cluster) =>
          playSetting(cluster, setting, each, questions, known, seed + 1000 * index),
        ),
      );
    }
    const sum = (of: (played: Played) => number) => all.reduce((total, one) => total + of(one), 0);
    const exercised: Goal[] = all.flatMap(({ setting, counters }) =>
      setting.exercises === null
        ? []
        : atLeast(`${setting.name}: ${setting.exercises}`, counters[setting.exercises], 1e-6),
    );
    return {
      tables: [{ title: 'random schedules', rows: all.map(rowOf) }],
      goals: [
        atLeast(
          'schedules',
          sum(({ schedules }) => schedules),
          schedulesMin,
        ),
        atMost(
          'answers that differ from those given alone',
          sum(({ different }) => different),
          0,
        ),
        atMost(
          'requests that failed',
          sum(({ failures }) => failures.length),
          0,
        ),
        atLeast(
          're-plans in mid-stream',
          sum(({ replans }) => replans),
          1,
        ),
        ...exercised,
      ],
      notes: all.flatMap(({ failures }) => failures).slice(0, 3),
    };
  },
};
