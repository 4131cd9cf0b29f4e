/** The systemd units against the exit codes of the daemons. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { exitCodeOf } from '../../../proto/domain/errors.ts';

it.each(['hels-worker@', 'hels-controller'])(
  '%s is started again after what may pass: an address or a device that is not there yet',
  (name) => {
    const file = new URL(`../../../deploy/systemd/${name}.service`, import.meta.url);
    const [, codes = ''] =
      /^RestartPreventExitStatus=(.*)$/m.exec(readFileSync(file, 'utf8')) ?? [];
    expect(codes.split(' ').map(Number)).toEqual([exitCodeOf.usage]);
  },
);
