/** The native engine beside llama.cpp and beside what the machine allows; `HELS_ENGINE_SHAPES=110m` leaves the large shape out. */
import { statSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import type { Benchmark, Goal, Table } from './benchmark.ts';
import { chosenShapes, orNote } from './engine/chosen.ts';
import { installPeer, peerVersion } from './engine/install-peer.ts';
import { repetitions, repetitionsOfOne } from './engine/interleave.ts';
import { buildCeilingBench } from './engine/limits.ts';
import { randomModelGguf } from './engine/llama-gguf.ts';
import {
  measureShape,
  measureTwoRanks,
  type Results,
  type Row,
  type Subject,
} from './engine/rows.ts';
import { sameNetwork } from './engine/same-network.ts';
import { measureServer, serverOutputTokens, serverPromptTokens } from './engine/whole-server.ts';
import { type ModelShape, randomModel } from './random-model.ts';

const threadCounts = [2, 1];

async function subjectOf(
  shape: ModelShape,
  peer: string | null,
  ceilings: boolean,
): Promise<Subject> {
  const directory = await randomModel(shape);
  const weightBytes = statSync(join(directory, 'model.safetensors')).size;
  return { shape, directory, weightBytes, gguf: await randomModelGguf(directory), peer, ceilings };
}

const readingNotes = [
  `medians of ${repetitions} measurements in turn, ${repetitionsOfOne} at batch 1 (exact, fast, llama.cpp, exact ...), after one that warms up; no two run at once`,
  'llama.cpp decodes and is not asked to sample; ours samples greedily in the step',
  'limit: at batch 1 read bandwidth / weights of a step; above, the products of the step alone by bare oneDNN in bf16, weights in its own layout; measured before and after the row, the better one (each the best of 5)',
  'two threads read up to twice as fast at some times as at others, as the host places its cores: where both engines are equally far off the bandwidth limit, row and limit met different times',
  'memory: private and shared, page cache left out, what loading added; llama.cpp computes on the page cache itself',
  `whole server: prompts of ${serverPromptTokens} and answers of ${serverOutputTokens} tokens, greedy; ours through HTTP and three processes, llama.cpp by evaluate() of one context in one process, no HTTP and no text`,
  '8-bit and 4-bit weights: npm run bench -- engine-quantized',
];

function tablesOf(results: Results, server: Row[]): Table[] {
  const tables = [
    { title: 'bandwidth that the machine gave while the rows were measured', rows: results.limits },
    { title: 'engine', rows: results.speeds },
    { title: 'whole server, 2 threads', rows: server },
    { title: 'two ranks of one thread, one rank of two threads, exact', rows: results.twoRanks },
    { title: 'load', rows: results.loads },
  ];
  return tables.filter(({ rows }) => rows.length > 0);
}

export const engine: Benchmark = {
  name: 'engine',
  summary: 'the native engine beside llama.cpp, the machine’s limits, and itself over two ranks',
  async run(log) {
    const chosen = chosenShapes();
    const notes: string[] = [...readingNotes];
    const results: Results = { speeds: [], loads: [], limits: [], twoRanks: [], goals: [], log };
    const server: Row[] = [];
    const served: Goal[] = [];
    log(`llama.cpp by node-llama-cpp ${peerVersion}`);
    let peer = await orNote(notes, 'llama.cpp could not be installed', installPeer);
    const same =
      peer === null
        ? null
        : await orNote(notes, 'llama.cpp does not load here', () => sameNetwork(peer ?? ''));
    if (same === null) peer = null;
    else results.goals.push(...same);
    const built = await orNote(notes, 'ceiling_bench was not built (make setup-test)', () => {
      buildCeilingBench();
      return true;
    });
    const usable = threadCounts.filter((threads) => threads <= cpus().length);
    for (const shape of chosen) {
      const subject = await subjectOf(shape, peer, built ?? false);
      for (const threads of usable) {
        log(`${shape.name}, threads ${threads}`);
        await measureShape(results, subject, threads);
      }
      log(`${shape.name}, two ranks`);
      if (usable.includes(2)) await measureTwoRanks(results, subject);
      log(`${shape.name}, whole server`);
      await measureServer(subject, server, served, log);
    }
    return { tables: tablesOf(results, server), goals: [...results.goals, ...served], notes };
  },
};
