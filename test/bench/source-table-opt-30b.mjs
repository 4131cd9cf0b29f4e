// OPT-30b on two A100 and two RTX 3090 in simulation, beside the source's table (docs/source-tables.md). Needs `make build`.
//   node test/bench/source-table-opt-30b.mjs [--sequences=N] [--context=N] [--link=pcie|ethernet] [--sum=SECONDS] [--a100=a100-80|a100-40]
//     [--variation=V] [--lengths=NAME] [--seed=N] [rate ...]
// Without a rate all requests come at once; a variation other than 1 makes gaps Gamma instead of Poisson. Prints, per rate, throughput relative to hels: median and 95th percentile over windows of
// 10 s, of the requests, and of the whole run.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const given = Object.fromEntries(
  process.argv.slice(2).filter((argument) => argument.startsWith('--')).map((argument) => argument.slice(2).split('=')),
);
const { sequences = '304', context = '320', link = 'pcie', sum = '0.00022', a100 = 'a100-80', seed = '1', lengths = 'sharegpt', variation = '1' } = given;
const rates = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const arrivals = variation === '1' ? 'poisson' : `gamma:variation=${variation}`;
const sources =
  rates.length === 0
    ? [`burst:count=2000,lengths=${lengths}`]
    : rates.map((rate) => `${arrivals}${variation === '1' ? ':' : ','}rate=${rate},count=2000,lengths=${lengths}`);
const policies = ['hels', 'equal', 'compute', 'stepwise'];

function simulate(folder, trace) {
  const cluster = join(folder, 'cluster.json');
  writeFileSync(
    cluster,
    JSON.stringify({ numerics: 'fast', link: { kind: link, latencySeconds: Number(sum) }, devices: [{ profile: a100, count: 2 }, { profile: 'rtx-3090', count: 2 }] }),
  );
  const parameters = [
    `--cluster=${cluster}`, '--model=deploy/examples/models/opt-30b', `--trace=${trace}`, `--policy=${policies.join(',')}`,
    `--sequences=${sequences}`, `--context=${context}`, `--seed=${seed}`, '--json',
  ];
  const text = execFileSync(process.execPath, ['dist/client/helsctl/main.js', 'simulate', ...parameters], {
    encoding: 'utf8',
    maxBuffer: 64 * 2 ** 20,
  });
  return JSON.parse(text).policies;
}

const columns = {
  'windows p50': (report) => report.throughput.windows.p50,
  'windows p95': (report) => report.throughput.windows.p95,
  'requests p50': (report) => report.requestTokensPerSecond.p50,
  'requests p95': (report) => report.requestTokensPerSecond.p95,
  'whole run': (report) => report.throughput.outputTokensPerSecond,
};

const folder = mkdtempSync(join(tmpdir(), 'hels-opt-'));
try {
  for (const trace of sources) {
    const runs = simulate(folder, trace);
    const best = runs[0].report;
    console.log(`\n${trace}\n`);
    console.log(`| policy | ${Object.keys(columns).join(' | ')} | tokens/s | TPOT p50 | KV tokens | preempted |`);
    console.log(`|---|${'---|'.repeat(Object.keys(columns).length + 4)}`);
    for (const { policy, report, reason } of runs) {
      if (report === null) {
        console.log(`| ${policy} | cannot serve: ${reason} |`);
        continue;
      }
      const relative = Object.values(columns).map((value) => (value(report) / value(best)).toFixed(2));
      const absolute = [
        report.throughput.outputTokensPerSecond.toFixed(0), `${(report.tpotSeconds.p50 * 1000).toFixed(0)} ms`, report.kv.tokens, report.preemptions,
      ];
      console.log(`| ${policy} | ${[...relative, ...absolute].join(' | ')} |`);
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
