/** Who may speak in a chat, on every edge. */
export const chatRoles = ['system', 'developer', 'user', 'assistant'] as const;

/** A developer message is what newer clients call a system message; chat templates know the older word. */
export function templateRole(role: (typeof chatRoles)[number]): string {
  return role === 'developer' ? 'system' : role;
}
