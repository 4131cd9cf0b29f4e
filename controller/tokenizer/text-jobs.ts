/** What the text thread is asked and what it answers: plain data that crosses the thread boundary. */
export interface ChatMessage {
  role: string;
  content: string;
}

export interface TextThreadData {
  tokenizer: Readonly<Record<string, unknown>>;
  tokenizerConfig: Readonly<Record<string, unknown>>;
  chatTemplate: string | null;
  /** bos_token and the like, as the template names them. */
  templateTokens: Record<string, string>;
}

export type TextJob =
  | { type: 'encode'; text: string; addSpecialTokens: boolean }
  | { type: 'render'; messages: readonly ChatMessage[] };

export type TextAnswer =
  | { type: 'started' }
  | { type: 'tokens'; tokenIds: number[] }
  | { type: 'text'; text: string }
  | { type: 'failed'; message: string };
