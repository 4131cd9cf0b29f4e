import { HelsError } from '../../../proto/domain/errors.ts';
import type { Device__Output } from '../../../proto/gen/hels/v1/Device.ts';
import type { HeartbeatRequest__Output } from '../../../proto/gen/hels/v1/HeartbeatRequest.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { unaryHandler } from './handlers.ts';

export interface WorkerRegistration {
  workerId: string;
  incarnation: string;
  address: string;
  version: string;
  device: Device__Output;
}

/** What the registry needs of the controller. */
export interface RegistryPort {
  register(registration: WorkerRegistration): { term: number; heartbeatIntervalMs: number };
  heartbeat(heartbeat: HeartbeatRequest__Output): { known: boolean; term: number };
  deregister(workerId: string, incarnation: string, reason: string): void;
}

const idPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

function checkId(value: string, field: string): string {
  if (!idPattern.test(value)) {
    const shown = value.slice(0, 80);
    throw new HelsError(
      'request-invalid',
      `${field}: '${shown}' is not 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit`,
      { field },
    );
  }
  return value;
}

function refuse(field: string, value: string | number, allowed: string): never {
  const shown = JSON.stringify(String(value).slice(0, 80));
  throw new HelsError('request-invalid', `${field}: ${shown} is not ${allowed}`, { field });
}

function checkAddress(address: string): string {
  const port = Number(/^(?:\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})$/.exec(address)?.[1]);
  if (port >= 1 && port <= 65_535) return address;
  return refuse('address', address, 'HOST:PORT with a port from 1 to 65535');
}

const textCharactersMax = 256;

/** It is shown on terminals and in logs. */
function checkText(field: string, text: string): string {
  if (text.length <= textCharactersMax && !/\p{Cc}/u.test(text)) return text;
  return refuse(
    field,
    text,
    `a text of at most ${textCharactersMax} characters on one line, without control characters`,
  );
}

function checkRange(field: string, value: number, low: number, high: number, whole: boolean) {
  if (value >= low && value <= high && (!whole || Number.isInteger(value))) return;
  refuse(field, value, `${whole ? 'a whole number' : 'a number'} from ${low} to ${high}`);
}

/** What people read and the planner counts with. */
function checkDevice(device: Device__Output | null): Device__Output {
  if (device === null) {
    throw new HelsError('request-invalid', 'device is missing', { field: 'device' });
  }
  if (!['cpu', 'cuda'].includes(device.kind)) refuse('device.kind', device.kind, 'cpu or cuda');
  checkText('device.name', device.name);
  checkText('device.implementation', device.implementation);
  checkRange('device.threads', device.threads, 1, 1024, true);
  checkRange('device.speed', device.speed, 0.01, 1, false);
  const bytesMax = Number.MAX_SAFE_INTEGER;
  checkRange('device.memory_bytes', device.memoryBytes, 0, bytesMax, true);
  checkRange('device.memory_free_bytes', device.memoryFreeBytes, 0, bytesMax, true);
  checkRange('device.host_memory_bytes', device.hostMemoryBytes, 0, bytesMax, true);
  return device;
}

export function registryHandlers(port: RegistryPort): RegistryHandlers {
  return {
    Register: unaryHandler((request) => {
      return port.register({
        workerId: checkId(request.workerId, 'worker_id'),
        incarnation: checkId(request.incarnation, 'incarnation'),
        address: checkAddress(request.address),
        version: checkText('version', request.version),
        device: checkDevice(request.device),
      });
    }),
    Heartbeat: unaryHandler((request) => port.heartbeat(request)),
    Deregister: unaryHandler((request) => {
      port.deregister(request.workerId, request.incarnation, request.reason);
      return {};
    }),
  };
}
