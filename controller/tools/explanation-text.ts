import { formatBytes } from '../../proto/domain/device.ts';
import type { Explanation } from '../planner/explain.ts';

/** An explanation for people: sentences, one a line. */
export function explanationText({
  binding,
  devices,
  changes,
  loans,
  eviction,
}: Explanation): string {
  const where = binding.devices.length > 0 ? ` (at ${binding.devices.join(', ')})` : '';
  const lines = devices.map(
    ({ device, text, strandedBytes }) =>
      `  ${device} ${text}; ${formatBytes(Math.floor(strandedBytes))} of its memory are stranded`,
  );
  return [
    '',
    `what binds: ${binding.text}${where}`,
    'what each device waits for:',
    ...lines,
    ...(loans === undefined ? [] : [`KV on other ranks: ${loans.text}`]),
    ...(eviction === undefined ? [] : [`KV without room: ${eviction.text}`]),
    'what would change it (policy hels, the same link):',
    ...changes.map(({ text }) => `  ${text}`),
    '',
  ].join('\n');
}
