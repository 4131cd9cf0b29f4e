import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** What a running process holds of the system, by /proc. */
export interface ProcessResources {
  sockets: number;
  /** Open files, pipes, shared memory and whatever else has a descriptor. */
  otherDescriptors: number;
  threads: number;
  /** Mappings of shared memory, with and without a name. */
  sharedMappings: number;
}

/** '' for a descriptor that was closed meanwhile. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

export function resourcesOf(processId: number): ProcessResources {
  const folder = `/proc/${processId}`;
  const links = readdirSync(`${folder}/fd`).map((name) => linkOf(`${folder}/fd/${name}`));
  const open = links.filter((link) => link !== '');
  const sockets = open.filter((link) => link.startsWith('socket:')).length;
  return {
    sockets,
    otherDescriptors: open.length - sockets,
    threads: readdirSync(`${folder}/task`).length,
    sharedMappings: readFileSync(`${folder}/maps`, 'utf8')
      .split('\n')
      .filter((line) => /\/memfd:|\/dev\/shm\//.test(line)).length,
  };
}
