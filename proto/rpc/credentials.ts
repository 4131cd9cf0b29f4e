/** Credentials of both ends of our gRPC connections; null: plain text, for loopback or a network that the operator trusts. */
import { ChannelCredentials, ServerCredentials } from '@grpc/grpc-js';
import type { TlsIdentity } from '../base/tls.ts';

/** For dialling. The server's certificate must name the host that is dialled. */
export function channelCredentials(
  tls: (Pick<TlsIdentity, 'authority'> & Partial<TlsIdentity>) | null,
): ChannelCredentials {
  if (tls === null) return ChannelCredentials.createInsecure();
  return ChannelCredentials.createSsl(tls.authority, tls.key ?? null, tls.certificate ?? null);
}

/** For listening. Whoever shows no certificate of the authority is refused. */
export function serverCredentials(tls: TlsIdentity | null): ServerCredentials {
  if (tls === null) return ServerCredentials.createInsecure();
  const pair = { private_key: tls.key, cert_chain: tls.certificate };
  return ServerCredentials.createSsl(tls.authority, [pair], true);
}
