/** Style and script of the dashboard. Texts go into the page as text nodes only, never as markup. */
export const style = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
header { display: flex; align-items: baseline; gap: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
#chat { min-height: 8rem; max-height: 28rem; overflow-y: auto; border: 1px solid #8884; padding: .5rem; }
#chat p { margin: .25rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
#chat .user { font-weight: 600; }
.error { color: #c33; }
form { display: flex; gap: .5rem; margin-top: .5rem; }
#question { flex: 1; }
input, button { font: inherit; padding: .25rem .5rem; }
`;

export const script = `
'use strict';
const element = (id) => document.getElementById(id);
const messages = [];
let model = '';
let running = null;

function headers() {
  const key = element('key').value;
  return { 'content-type': 'application/json', ...(key ? { authorization: 'Bearer ' + key } : {}) };
}

const milliseconds = (seconds) => (seconds > 0 ? (seconds * 1000).toFixed(2) + ' ms' : '-');
const range = (r) => (r ? '[' + r.begin + ', ' + r.end + ')' : '-');

function deviceText(device) {
  if (!device) return '-';
  return (device.name || device.kind) + (device.emulated ? ' (speed ' + device.speed + ', emulated)' : '');
}

function showPlan(plan) {
  const reports = new Map((plan?.ranks ?? []).map((report) => [report.workerId, report]));
  const rows = (plan?.plan?.ranks ?? []).map((rank) => {
    const report = reports.get(rank.workerId) ?? {};
    const cells = [
      rank.workerId, deviceText(report.device), range(rank.headGroups), range(rank.ffnColumns),
      range(rank.vocabRows), ((rank.kvShare ?? 0) * 100).toFixed(1) + ' %',
      milliseconds(report.predictedDecodeSeconds), milliseconds(report.measuredDecodeSeconds),
    ];
    const row = document.createElement('tr');
    for (const text of cells) row.append(Object.assign(document.createElement('td'), { textContent: text }));
    return row;
  });
  element('ranks').replaceChildren(...rows);
}

async function refresh() {
  try {
    const response = await fetch('/status', { headers: headers(), signal: AbortSignal.timeout(5000) });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error.message);
    const { status, plan } = body;
    model = status.modelId ?? '';
    element('state').textContent = [status.state, model, status.numericsClass, 'epoch ' + status.epoch, status.detail]
      .filter(Boolean).join(' · ');
    element('load').textContent = status.requestsRunning + ' running, ' + status.requestsWaiting + ' waiting, KV blocks ' +
      status.kvBlocksUsed + ' of ' + status.kvBlocksTotal + ', ' + status.steps + ' steps';
    showPlan(plan);
  } catch (error) {
    element('state').textContent = 'no answer: ' + error.message;
  }
  setTimeout(refresh, 2000);
}

function addLine(kind, text) {
  const line = Object.assign(document.createElement('p'), { className: kind, textContent: text });
  element('chat').append(line);
  line.scrollIntoView({ block: 'nearest' });
  return line;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split('\\n\\n');
    buffer = parts.pop();
    for (const part of parts) {
      if (part === 'data: [DONE]') return;
      if (part.startsWith('data: ')) yield JSON.parse(part.slice(6));
    }
  }
}

async function ask(question) {
  messages.push({ role: 'user', content: question });
  addLine('user', question);
  const line = addLine('assistant', '');
  let answer = '';
  try {
    const body = JSON.stringify({ model, messages, stream: true, temperature: 0 });
    const response = await fetch('/v1/chat/completions', { method: 'POST', headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      answer += event.choices[0]?.delta.content ?? '';
      line.textContent = answer;
    }
  } catch (error) {
    if (error.name !== 'AbortError') addLine('error', error.message);
  }
  if (answer === '') messages.pop();
  else messages.push({ role: 'assistant', content: answer });
}

element('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const question = element('question').value.trim();
  if (question === '' || running) return;
  element('question').value = '';
  running = new AbortController();
  element('stop').disabled = false;
  await ask(question);
  running = null;
  element('stop').disabled = true;
});
element('stop').addEventListener('click', () => running?.abort());
refresh();
`;
