import { ChannelCredentials, ServerCredentials } from '@grpc/grpc-js';

export interface RpcCredentials {
  /** For dialling the workers. */
  client: ChannelCredentials;
  /** For those who dial the controller. */
  server: ServerCredentials;
}

/** No TLS: for loopback, or a network that the operator called trusted with --insecure. */
export function plaintextCredentials(): RpcCredentials {
  return {
    client: ChannelCredentials.createInsecure(),
    server: ServerCredentials.createInsecure(),
  };
}
