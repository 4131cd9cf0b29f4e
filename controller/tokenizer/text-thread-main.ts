/** Entry of the text thread: encodes and renders what the controller sends, one job at a time. */
import { parentPort, workerData } from 'node:worker_threads';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import type { TextAnswer, TextJob, TextThreadData } from './text-jobs.ts';

const data = workerData as TextThreadData;
const port = parentPort;
if (port === null) throw new Error('text-thread-main runs only as a worker thread');

const tokenizer = new Tokenizer(data.tokenizer, data.tokenizerConfig);
const template = data.chatTemplate === null ? null : new Template(data.chatTemplate);

function run(job: TextJob): TextAnswer {
  if (job.type === 'encode') {
    const options = { add_special_tokens: job.addSpecialTokens };
    return { type: 'tokens', tokenIds: tokenizer.encode(job.text, options).ids };
  }
  if (template === null) return { type: 'failed', message: 'there is no chat template' };
  // raise_exception, strftime_now, range and namespace are built in. Templates written for transformers expect tools and
  // documents to be defined and none.
  const text = template.render({
    ...data.templateTokens,
    messages: job.messages.map((message) => ({ ...message })),
    add_generation_prompt: true,
    tools: null,
    documents: null,
  });
  return { type: 'text', text };
}

port.on('message', (job: TextJob) => {
  let answer: TextAnswer;
  try {
    answer = run(job);
  } catch (error) {
    answer = { type: 'failed', message: error instanceof Error ? error.message : String(error) };
  }
  port.postMessage(answer);
});
port.postMessage({ type: 'started' } satisfies TextAnswer);
