/** The service definitions, loaded from the .proto files once per process. */
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';
import type { ProtoGrpcType as ApiTypes } from '../gen/api.ts';
import type { ProtoGrpcType as RegistryTypes } from '../gen/registry.ts';
import type { ProtoGrpcType as WorkerTypes } from '../gen/worker.ts';
import { protoDirectory } from './proto-directory.ts';

const root = fileURLToPath(protoDirectory(new URL('.', import.meta.url)));

function load(file: string): grpc.GrpcObject {
  const definition = protoLoader.loadSync(file, {
    includeDirs: [root],
    keepCase: false,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  return grpc.loadPackageDefinition(definition);
}

const api = load('hels/v1/api.proto') as unknown as ApiTypes;
const registry = load('hels/v1/registry.proto') as unknown as RegistryTypes;
const worker = load('hels/v1/worker.proto') as unknown as WorkerTypes;

export const HelsService = api.hels.v1.Hels;
export const RegistryService = registry.hels.v1.Registry;
export const WorkerService = worker.hels.v1.Worker;

/** Proxies of the environment (http_proxy and its kin) are for other hosts: the parts of a cluster reach each other, loopback included. */
export const noProxy: grpc.ChannelOptions = { 'grpc.enable_http_proxy': 0 };

/** 64 MiB: a step that returns logits of a chunk. What a controller takes of its clients is far less, and a bound of its own. */
export const channelOptions: grpc.ChannelOptions = {
  ...noProxy,
  'grpc.max_receive_message_length': 64 * 2 ** 20,
  'grpc.max_send_message_length': 64 * 2 ** 20,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
};
