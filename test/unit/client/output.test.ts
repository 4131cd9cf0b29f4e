import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { milestones } from '../../../client/helsctl/deploy-progress.ts';
import { createOutput, formatTable, reportError } from '../../../client/helsctl/output.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

function sink() {
  const stream = new PassThrough() as unknown as NodeJS.WriteStream;
  return { stream, text: () => String((stream as unknown as PassThrough).read() ?? '') };
}

describe('output', () => {
  it('prints the JSON value and no notes with --json', () => {
    const out = sink();
    const err = sink();
    const output = createOutput(true, out.stream, err.stream);
    output.note('a line for people');
    output.progress('50 %');
    output.result({ tokens: 3 }, () => 'three');
    expect(out.text()).toBe('{"tokens":3}\n');
    expect(err.text()).toBe('');
  });

  it('prints text on stdout and notes on stderr otherwise', () => {
    const out = sink();
    const err = sink();
    const output = createOutput(false, out.stream, err.stream);
    output.note('working');
    output.result({ tokens: 3 }, () => 'three');
    expect(out.text()).toBe('three\n');
    expect(err.text()).toBe('working\n');
  });

  it('overwrites progress on a terminal, and writes only its milestones elsewhere', () => {
    const lines = (isTTY: boolean) => {
      const err = sink();
      Object.assign(err.stream, { isTTY });
      const output = createOutput(false, sink().stream, err.stream);
      output.progress('begins');
      output.progress('1 %', false);
      output.progress('2 %', false);
      output.note('ready');
      return err.text();
    };
    const wipe = '\r\u001b[2K';
    expect(lines(false)).toBe('begins\nready\n');
    expect(lines(true)).toBe(`begins${wipe}1 %${wipe}2 %${wipe}ready\n`);
  });

  it('takes as milestones the first event of each activity and one per quarter', () => {
    const isMilestone = milestones();
    const percents = Array.from({ length: 101 }, (_, i) => i);
    const shown = (activity: string) => percents.filter((i) => isMilestone(activity, i / 100));
    expect(shown('worker-0')).toEqual([0, 25, 50, 75, 100]);
    // Several workers in turns: each has its own way.
    expect(['worker-1', 'worker-2', 'worker-1'].map((name) => isMilestone(name, 0.1))).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('aligns columns, numbers to the right', () => {
    expect(
      formatTable(
        ['name', 'tokens'],
        [
          ['a', '5'],
          ['longer', '1000'],
        ],
      ),
    ).toBe(['name    tokens', 'a            5', 'longer    1000'].join('\n'));
  });

  it.each([
    ['usage', 2],
    ['config-invalid', 3],
    ['model-invalid', 4],
    ['unreachable', 5],
    ['denied', 6],
    ['internal', 1],
  ] as const)('ends a command that failed with %s with exit code %i', (code, exitCode) => {
    const err = sink();
    expect(reportError(new HelsError(code, 'what, where, fix'), false, err.stream)).toBe(exitCode);
    expect(err.text()).toBe('error: what, where, fix\n');
  });

  it('prints errors as JSON with --json', () => {
    const err = sink();
    reportError(
      new HelsError('request-invalid', 'max_tokens: 0', { field: 'max_tokens' }),
      true,
      err.stream,
    );
    expect(JSON.parse(err.text())).toEqual({
      error: { code: 'request-invalid', message: 'max_tokens: 0', field: 'max_tokens' },
    });
  });
});
