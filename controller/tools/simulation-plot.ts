import { quantile } from '../../proto/domain/quantile.ts';
import { type SimulationReport, tpotOf, ttftOf } from '../simulator/report.ts';
import type { RequestRecord } from '../simulator/request-log.ts';
import { line, type Point, polyline, rectangle, svgDocument, text } from './svg.ts';

export interface PlottedRun {
  readonly policy: string;
  readonly report: SimulationReport | null;
  readonly records: readonly RequestRecord[];
}

/** Told apart by people who see few colours (Okabe and Ito). */
const colors = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const colorOf = (index: number): string => colors[index % colors.length] ?? '#222';

const panel = { width: 300, height: 220, top: 60, gap: 80, left: 60 };
const panelLeft = (index: number): number => panel.left + index * (panel.width + panel.gap);
const bottom = panel.top + panel.height;
const curvePoints = 100;

const secondsLabel = (exponent: number): string =>
  exponent < 0 ? `${10 ** (exponent + 3)} ms` : `${10 ** exponent} s`;

function frame(left: number, title: string): string[] {
  return [
    text([left, panel.top - 12], title, { size: 13 }),
    line([left, panel.top], [left, bottom], '#888'),
    line([left, bottom], [left + panel.width, bottom], '#888'),
  ];
}

/** Share of the requests (up) within a time (right, logarithmic). */
function distributionPanel(
  left: number,
  title: string,
  curves: readonly (readonly number[])[],
): string[] {
  const positive = curves.flat().filter((seconds) => seconds > 0);
  if (positive.length === 0) return frame(left, `${title}: nothing to show`);
  const extreme = (pick: (a: number, b: number) => number): number =>
    positive.reduce((one, other) => pick(one, other));
  const low = Math.floor(Math.log10(extreme(Math.min)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(extreme(Math.max))));
  const x = (seconds: number): number =>
    left + (panel.width * (Math.log10(Math.max(seconds, 10 ** low)) - low)) / (high - low);
  const y = (share: number): number => bottom - panel.height * share;
  const ticks = Array.from({ length: high - low + 1 }, (_, index) => low + index);
  return [
    ...frame(left, title),
    ...ticks.flatMap((exponent) => [
      line([x(10 ** exponent), panel.top], [x(10 ** exponent), bottom], '#ddd'),
      text([x(10 ** exponent), bottom + 16], secondsLabel(exponent), { anchor: 'middle' }),
    ]),
    ...[0, 0.5, 0.95].flatMap((share) => [
      line([left, y(share)], [left + panel.width, y(share)], '#ddd'),
      text([left - 6, y(share) + 4], `${share * 100} %`, { anchor: 'end' }),
    ]),
    ...curves.map((sorted, index) => {
      const points = Array.from({ length: curvePoints + 1 }, (_, step): Point => {
        const share = step / curvePoints;
        return [x(quantile(sorted, share)), y(share)];
      });
      return sorted.length === 0 ? '' : polyline(points, colorOf(index));
    }),
  ];
}

/** Requests per second by policy: all, and dark those within the service level. */
function throughputPanel(left: number, runs: readonly PlottedRun[]): string[] {
  const rates = runs.map(({ report }) => report?.throughput.requestsPerSecond ?? 0);
  const highest = Math.max(...rates);
  // Room for the label of the highest bar.
  const scale = highest > 0 ? (panel.height - 20) / highest : 0;
  const slot = panel.width / runs.length;
  return [
    ...frame(left, 'requests/s (dark: within the SLO)'),
    ...runs.flatMap(({ policy, report }, index) => {
      const x = left + slot * (index + 0.15);
      const rate = rates[index] ?? 0;
      const good = report?.goodput.requestsPerSecond ?? 0;
      const label = report === null ? 'cannot serve' : rate.toFixed(2);
      return [
        rectangle([x, bottom - rate * scale], slot * 0.7, rate * scale, colorOf(index), 0.35),
        rectangle([x, bottom - good * scale], slot * 0.7, good * scale, colorOf(index)),
        text([x + slot * 0.35, bottom - rate * scale - 4], label, { anchor: 'middle', size: 11 }),
        text([x + slot * 0.35, bottom + 16], policy, { anchor: 'middle', size: 11 }),
      ];
    }),
  ];
}

function legend(runs: readonly PlottedRun[]): string[] {
  return runs.flatMap(({ policy }, index) => {
    const left = panel.left + index * 110;
    return [
      rectangle([left, bottom + 36], 14, 10, colorOf(index)),
      text([left + 20, bottom + 45], policy),
    ];
  });
}

/** Policies side by side as SVG: distributions of TTFT and TPOT, throughput and goodput. */
export function simulationPlot(runs: readonly PlottedRun[], title: string): string {
  const sorted = (of: (record: RequestRecord) => number, tokensMin: number): number[][] =>
    runs.map(({ records }) =>
      records
        .filter(({ outcome, tokens }) => outcome === 'completed' && tokens >= tokensMin)
        .map(of)
        .sort((left, right) => left - right),
    );
  return svgDocument(panelLeft(3) - panel.gap + 30, bottom + 66, [
    text([panel.left, 24], title, { size: 15 }),
    ...distributionPanel(panelLeft(0), 'time to first token', sorted(ttftOf, 1)),
    ...distributionPanel(panelLeft(1), 'time per output token', sorted(tpotOf, 2)),
    ...throughputPanel(panelLeft(2), runs),
    ...legend(runs),
  ]);
}
