import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';

/** Throws context-too-long when a prompt, or the messages of a chat together, have more characters than one may have. */
export function checkPromptCharacters(field: 'prompt' | 'messages', characters: number): void {
  const most = limits.promptCharactersMax;
  if (characters <= most) return;
  throw new HelsError(
    'context-too-long',
    `${field}: ${characters} characters are more than the ${most} one prompt may have; send less text`,
    { field },
  );
}
