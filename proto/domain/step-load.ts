/** What one forward step has to compute, as the latency model sees it (design section 6). Tokens; context: sum over the tokens of the positions each attends to, itself included. */
export interface StepLoad {
  /** Sequences that give one token each. */
  readonly decodeTokens: number;
  readonly decodeContextTokens: number;
  /** Tokens of prompt chunks. */
  readonly prefillTokens: number;
  readonly prefillContextTokens: number;
}
