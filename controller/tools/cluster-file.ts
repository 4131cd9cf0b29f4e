import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { type ClusterSpec, type DeviceProfiles, parseCluster } from '../profiler/cluster-input.ts';
import { parseDeviceProfile } from '../profiler/device-profile.ts';
import { readParsed } from './read-file.ts';

/** `deploy/profiles` of this installation: two folders up from the source, three from dist/. */
function profilesDirectory(): string {
  for (const root of ['../../', '../../../']) {
    const path = fileURLToPath(new URL(`${root}deploy/profiles`, import.meta.url));
    if (existsSync(path)) return path;
  }
  throw new HelsError('config-invalid', 'deploy/profiles is missing from this installation');
}

/** All device profiles by name, the file's without `.json`. Throws config-invalid for one that is wrong. */
export async function readDeviceProfiles(directory = profilesDirectory()): Promise<DeviceProfiles> {
  const files = (await readdir(directory)).filter((file) => file.endsWith('.json')).sort();
  const entries = files.map(async (file) => {
    const json = await readParsed(join(directory, file), {
      option: 'device profile',
      format: 'json',
    });
    const name = basename(file, '.json');
    return [name, parseDeviceProfile(json, name)] as const;
  });
  return new Map(await Promise.all(entries));
}

/** A cluster file, YAML or JSON. Throws config-invalid. */
export async function readCluster(path: string): Promise<ClusterSpec> {
  return parseCluster(await readParsed(path, { option: '--cluster', format: 'yaml' }));
}

/** The model of a config.json, or of a directory that holds one; no weights are needed. Throws model-invalid. */
export async function readModelShape(path: string): Promise<ModelSpec> {
  const info = await stat(path).catch(() => null);
  const file = info?.isDirectory() === true ? join(path, 'config.json') : path;
  const json = await readParsed(file, {
    option: '--model',
    format: 'json',
    code: 'model-invalid',
  });
  return modelSpecFromConfig(json);
}
