/** What Node.js cannot read as a request gets an answer of the same form as all others. */
import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { malformedAnswer } from '../../../controller/api/http/malformed-request.ts';
import { limits } from '../../../controller/limits.ts';
import { completion, useHttpServer } from '../../support/http-completions.ts';

const http = useHttpServer();

/** All that comes back for these bytes until the connection ends. */
const answerTo = (bytes: string) =>
  new Promise<string>((resolve, reject) => {
    const socket = connect(Number(new URL(http.server.url).port), '127.0.0.1');
    let answer = '';
    socket.on('error', reject).on('close', () => resolve(answer));
    socket.on('data', (data) => {
      answer += data.toString();
    });
    socket.write(bytes);
  });

function parsed(answer: string) {
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  const status = Number(/^HTTP\/1\.1 (\d+) /.exec(head)?.[1]);
  const requestId = /^x-request-id: ([0-9a-f-]{36})$/im.exec(head)?.[1];
  const { error } = JSON.parse(body) as { error: { code: string; message: string } };
  return { status, requestId, code: error.code, message: error.message };
}

describe('what is no request', () => {
  it.each([
    ['no method', 'nonsense\r\n\r\n', 400, 'invalid_request', 'the request is not HTTP/1.1'],
    [
      'a broken chunk',
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n',
      400,
      'invalid_request',
      'the request is not HTTP/1.1',
    ],
    [
      'long headers',
      `GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${'x'.repeat(2 * limits.httpHeaderBytesMax)}\r\n\r\n`,
      431,
      'headers_too_large',
      'longer than the 16384 bytes',
    ],
    [
      'no host',
      'GET /health HTTP/1.1\r\nconnection: close\r\n\r\n',
      400,
      'invalid_request',
      'host: the header is missing',
    ],
  ])('%s: gets envelope and id', async (_, bytes, status, code, message) => {
    await http.start();
    const answer = parsed(await answerTo(bytes));
    expect(answer).toMatchObject({ status, code, requestId: expect.any(String) });
    expect(answer.message).toContain(message);
    expect((await http.post(completion)).status).toBe(200);
  });

  it('one that is late is told how long it may take', () => {
    const late = Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
    const answer = parsed(malformedAnswer(late, '00000000-0000-0000-0000-000000000000'));
    expect(answer).toMatchObject({ status: 408, code: 'request_timeout' });
    expect(answer.message).toContain('its headers may take 10 s, all of it 60 s');
  });
});

it('an expectation that nobody knows is ignored', async () => {
  await http.start();
  const asked =
    'GET /health HTTP/1.1\r\nhost: localhost\r\nexpect: cake\r\nconnection: close\r\n\r\n';
  expect(await answerTo(asked)).toMatch(/^HTTP\/1\.1 200 .*x-request-id: /is);
});

it.each([
  ['', 'nonsense\r\n\r\n'],
  [
    ', when it is what the next request goes on with',
    'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n',
  ],
])('an answer that has begun is cut, not followed by another%s', async (_, malformed) => {
  await http.start({ engine: { tokenDelayMs: 5 } });
  const body = JSON.stringify({ ...completion, max_tokens: 400, ignore_eos: true, stream: true });
  const socket = connect(Number(new URL(http.server.url).port), '127.0.0.1');
  let answer = '';
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.on('data', (data) => {
    if (answer === '') socket.write(malformed);
    answer += data.toString();
  });
  socket.write(
    `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  await closed;
  expect(answer.match(/HTTP\/1\.1/g)).toEqual(['HTTP/1.1']);
  await expect.poll(() => http.server.engine.running).toBe(0);
});
