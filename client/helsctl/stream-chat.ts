import { HelsError } from '../../proto/domain/errors.ts';

export interface ChatMeasurement {
  text: string;
  completionTokens: number;
  /** Request sent to first text received. */
  ttftSeconds: number;
  /** (last - first) / (tokens - 1). */
  tpotSeconds: number;
}

interface ChatChunk {
  choices?: { delta?: { content?: string } }[];
  usage?: { completion_tokens: number } | null;
  error?: { message: string };
}

/** The data of each SSE event in order, without the closing [DONE]. */
async function* serverSentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let buffer = '';
  for await (const bytes of body) {
    buffer += decoder.decode(bytes, { stream: true });
    const events = buffer.split('\n\n');
    buffer = events.pop() ?? '';
    for (const event of events) {
      // Comments keep a stream open that has to wait.
      if (!event.startsWith('data: ')) continue;
      const data = event.slice('data: '.length);
      if (data !== '[DONE]') yield data;
    }
  }
}

/** Asks over the OpenAI endpoint, as any client would, and measures what that client sees. */
export async function streamChat(
  baseUrl: string,
  model: string,
  question: string,
  signal: AbortSignal,
  onText: (text: string) => void,
): Promise<ChatMeasurement> {
  const start = performance.now();
  const response = await fetch(`${baseUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    signal,
    body: JSON.stringify({
      model,
      messages: [{ role: 'user', content: question }],
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    }),
  });
  if (!response.ok || response.body === null) {
    throw new HelsError('internal', `HTTP ${response.status}: ${await response.text()}`);
  }
  const result: ChatMeasurement = { text: '', completionTokens: 0, ttftSeconds: 0, tpotSeconds: 0 };
  let first = 0;
  let last = 0;
  for await (const data of serverSentEvents(response.body)) {
    const chunk = JSON.parse(data) as ChatChunk;
    if (chunk.error) throw new HelsError('internal', chunk.error.message);
    const text = chunk.choices?.[0]?.delta?.content ?? '';
    if (text !== '') {
      last = performance.now();
      if (first === 0) first = last;
      result.text += text;
      onText(text);
    }
    if (chunk.usage) result.completionTokens = chunk.usage.completion_tokens;
  }
  result.ttftSeconds = (first - start) / 1000;
  result.tpotSeconds = (last - first) / 1000 / Math.max(1, result.completionTokens - 1);
  return result;
}
