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
  register(registration: WorkerRegistration): {
    term: number;
    heartbeatIntervalMs: number;
    leaseMs: number;
  };
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

function checkAddress(address: string): string {
  if (!/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/.test(address)) {
    throw new HelsError('request-invalid', `address: '${address.slice(0, 80)}' is not HOST:PORT`, {
      field: 'address',
    });
  }
  return address;
}

/** What the planner counts with must be a number of bytes. */
function checkDevice(device: Device__Output | null): Device__Output {
  if (device === null) {
    throw new HelsError('request-invalid', 'device is missing', { field: 'device' });
  }
  const { hostMemoryBytes } = device;
  if (!(Number.isSafeInteger(hostMemoryBytes) && hostMemoryBytes >= 0)) {
    throw new HelsError(
      'request-invalid',
      `device.host_memory_bytes: ${hostMemoryBytes} is not a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`,
      { field: 'device.host_memory_bytes' },
    );
  }
  return device;
}

export function registryHandlers(port: RegistryPort): RegistryHandlers {
  return {
    Register: unaryHandler((request) => {
      return port.register({
        workerId: checkId(request.workerId, 'worker_id'),
        incarnation: checkId(request.incarnation, 'incarnation'),
        address: checkAddress(request.address),
        version: request.version,
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
