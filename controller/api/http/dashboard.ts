import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import type { PlanReport } from '../../../proto/gen/hels/v1/PlanReport.ts';
import type { Status } from '../../../proto/gen/hels/v1/Status.ts';
import { script, style } from './dashboard-page.ts';
import { sendText } from './exchange.ts';

/** What GET /status answers and the page shows: the messages of the gRPC API. */
export interface DashboardStatus {
  status: Status;
  /** null while no plan is being served. */
  plan: PlanReport | null;
}

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hels</title>
<style>${style}</style>
</head>
<body>
<header><h1>Hels</h1><p id="state" role="status">loading</p></header>
<section><h2>Plan</h2><table><thead><tr>
<th>worker</th><th>device</th><th>head groups</th><th>FFN columns</th><th>vocabulary rows</th>
<th>KV share</th><th>predicted</th><th>measured</th>
</tr></thead><tbody id="ranks"></tbody></table><p id="load"></p></section>
<section><h2>Chat</h2><div id="chat" aria-live="polite"></div>
<form id="form"><input id="question" autocomplete="off" placeholder="Ask the model" aria-label="Question">
<button>Send</button><button type="button" id="stop" disabled>Stop</button></form>
<p><label>API key, if the server asks for one: <input id="key" type="password" autocomplete="off"></label></p>
</section>
<script>${script}</script>
</body>
</html>
`;

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** The page carries everything it needs; the browser is told to run and load nothing else. */
const contentSecurityPolicy = [
  "default-src 'none'",
  `script-src ${hashOf(script)}`,
  `style-src ${hashOf(style)}`,
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

export function dashboard(response: ServerResponse): void {
  sendText(response, 200, page, 'text/html; charset=utf-8', {
    'content-security-policy': contentSecurityPolicy,
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-cache',
  });
}
