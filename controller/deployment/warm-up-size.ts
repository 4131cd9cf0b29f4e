/** Of each answer of a warm-up (engine/warm-up.ts). */
export const warmUpSize = { promptTokens: 16, decodeTokens: 12 } as const;
