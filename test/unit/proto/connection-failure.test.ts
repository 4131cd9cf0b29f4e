import { status } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { connectionFailureOf } from '../../../proto/rpc/connection-failure.ts';
import { fromServiceError } from '../../../proto/rpc/status.ts';

/** As gRPC.js 1.14 words them. */
const wrapped = (reason: string) =>
  `No connection established. Last error: ${reason}. Resolution note: `;
const refused = 'Error: connect ECONNREFUSED 127.0.0.1:7070';
const unknownAuthority = 'Error: self-signed certificate in certificate chain';
const alert =
  '80CC48309C7F0000:error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required:../deps/rec_layer_s3.c:1601:SSL alert number 116\n (2026-11-24T23:12:01.828Z)';
const plainServer =
  'write EPROTO 8:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../deps/ssl3_record.c:354:\n';

describe('connectionFailureOf', () => {
  it.each([
    [wrapped(refused), 'connect ECONNREFUSED 127.0.0.1:7070', false],
    [`14 UNAVAILABLE: ${wrapped(refused)}`, 'connect ECONNREFUSED 127.0.0.1:7070', false],
    [wrapped(unknownAuthority), 'self-signed certificate in certificate chain', true],
    [wrapped(alert), 'tlsv13 alert certificate required', true],
    [wrapped(plainServer), 'wrong version number', true],
    [wrapped('undefined'), 'no connection', false],
    ['Connection dropped', 'Connection dropped', false],
  ])('%s', (details, reason, byTls) => {
    expect(connectionFailureOf(details)).toEqual({ reason, byTls });
  });
});

describe('an unavailable peer', () => {
  const failure = (reason: string) =>
    fromServiceError({ code: status.UNAVAILABLE, details: wrapped(reason) }, 'host:1');

  it('is unreachable, or denied when a certificate was refused', () => {
    expect(failure(refused)).toMatchObject({
      code: 'unreachable',
      message: 'nothing answers at host:1: connect ECONNREFUSED 127.0.0.1:7070',
    });
    expect(failure(alert)).toMatchObject({ code: 'denied' });
    expect(failure(alert).message).toMatch(/no TLS connection to host:1: .*required; .*--tls-ca/);
  });

  it('that speaks another protocol does answer', () => {
    expect(failure('Protocol error')).toMatchObject({
      code: 'unreachable',
      message: 'what answers at host:1 does not speak gRPC; is that the gRPC port?',
    });
  });

  it.each(['Failed to connect', 'read ECONNRESET'])(
    'that closes at once may have TLS: %s',
    (why) => {
      const message = failure(`${why} (2026-11-24T23:05:14.086Z)`).message;
      expect(message).toMatch(/host:1 closed the connection at once; if it has TLS, .*--tls-ca/);
    },
  );
});
