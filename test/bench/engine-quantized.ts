/** The native engine with weights of 8 and 4 bits beside llama.cpp with its own; `HELS_ENGINE_SHAPES=110m` leaves the large shape out. */
import { cpus } from 'node:os';
import { atLeast, type Benchmark, type Goal, shown } from './benchmark.ts';
import { chosenShapes, orNote } from './engine/chosen.ts';
import {
  decode,
  type Loaded,
  openPeer,
  prefill,
  prefillTokens,
  startHels,
  startPeer,
} from './engine/contenders.ts';
import { installPeer, peerVersion } from './engine/install-peer.ts';
import { interleave, repetitions } from './engine/interleave.ts';
import { randomModelGguf } from './engine/llama-gguf.ts';
import type { Row } from './engine/rows.ts';
import { sameNetwork } from './engine/same-network.ts';
import { type ModelShape, randomModel } from './random-model.ts';

const forms = ['int8', 'int4'] as const;
const peerForms = { int8: 'Q8_0', int4: 'Q4_0' } as const;
const batches = [1, 8, 32];

interface Subject {
  shape: ModelShape;
  directory: string;
  form: (typeof forms)[number];
  threads: number;
  /** Where llama.cpp is installed; null: it does not load here. */
  peer: string | null;
}

interface Results {
  rows: Row[];
  goals: Goal[];
  log(line: string): void;
}

async function measureSteps(results: Results, subject: Subject, loaded: readonly Loaded[]) {
  const { shape, form, threads } = subject;
  const contenders = loaded.map(({ contender }) => contender);
  for (const batch of [...batches, null]) {
    const seconds = await interleave(
      contenders.map(
        (contender) => (count: number) =>
          batch === null ? prefill(contender) : decode(contender, batch, count),
      ),
    );
    const tokens = batch ?? prefillTokens;
    const [quantized = Number.NaN, bf16 = Number.NaN, peer = null] = seconds.map(
      (value) => tokens / value,
    );
    const step = batch === null ? `prefill ${prefillTokens}` : `decode ${batch}`;
    results.rows.push({
      model: shape.name,
      weights: form,
      threads,
      step,
      'tok/s': quantized,
      'bf16 tok/s': bf16,
      'llama.cpp tok/s': peer,
      'times bf16': quantized / bf16,
      'times llama.cpp': peer === null ? null : quantized / peer,
    });
    const shownPeer = peer === null ? '' : `, llama.cpp ${peerForms[form]} ${shown(peer)}`;
    results.log(`${step}: ${form} ${shown(quantized)}, bf16 ${shown(bf16)}${shownPeer} tokens/s`);
    if (batch !== 1 || peer === null) continue;
    const name = `${shape.name}, threads ${threads}: ${step}, ${form}: times llama.cpp`;
    results.goals.push(atLeast(name, quantized / peer, 1));
  }
}

async function measure(results: Results, subject: Subject): Promise<void> {
  const { directory, form, threads, peer: installed } = subject;
  const loaded: Loaded[] = [];
  try {
    const options = { directory, threads, numerics: 'exact' } as const;
    loaded.push(await startHels({ ...options, quantization: form }));
    loaded.push(await startHels(options));
    if (installed !== null) {
      const peer = await startPeer(installed, await randomModelGguf(directory, form));
      loaded.push(peer);
      await openPeer(peer.contender, threads);
    }
    await measureSteps(results, subject, loaded);
  } finally {
    await Promise.all(loaded.map(({ contender }) => contender.stop()));
  }
}

const readingNotes = [
  `medians of ${repetitions} measurements in turn (quantised, bf16, llama.cpp, quantised ...), after one that warms up; no two run at once`,
  'ours: exact numerics, groups of 32 with f16 scales, the head in 8 bits; llama.cpp: Q8_0, or Q4_0 with token embedding and head in Q8_0, quantised from the same bf16',
  'llama.cpp also quantises the inputs of its products to 8 bits; ours multiply bf16 inputs with the integers',
];

export const engineQuantized: Benchmark = {
  name: 'engine-quantized',
  summary: 'the native engine with 8-bit and 4-bit weights beside its bf16 and llama.cpp',
  async run(log) {
    const notes = [...readingNotes];
    const results: Results = { rows: [], goals: [], log };
    log(`llama.cpp by node-llama-cpp ${peerVersion}`);
    let peer = await orNote(notes, 'llama.cpp could not be installed', installPeer);
    for (const form of forms) {
      if (peer === null) break;
      const installed = peer;
      const load = () => sameNetwork(installed, form);
      const same = await orNote(notes, 'llama.cpp does not load here', load);
      if (same === null) peer = null;
      else results.goals.push(...same);
    }
    for (const shape of chosenShapes()) {
      const directory = await randomModel(shape);
      for (const threads of [2, 1].filter((count) => count <= cpus().length)) {
        for (const form of forms) {
          log(`${shape.name}, threads ${threads}, ${form}`);
          await measure(results, { shape, directory, form, threads, peer });
        }
      }
    }
    return { tables: [{ title: 'steps', rows: results.rows }], goals: results.goals, notes };
  },
};
