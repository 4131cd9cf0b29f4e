/** Under which a model may be served. Pure. */
const pattern = /^[\w./:-]{0,128}$/;

/** In the words of an error. */
export const modelIdAllowed = 'at most 128 letters, digits and . _ / : -';

/** Empty: the name of the model's directory. */
export function isModelId(text: string): boolean {
  return pattern.test(text);
}
