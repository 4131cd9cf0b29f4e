const quote = '"'.charCodeAt(0);
const backslash = '\\'.charCodeAt(0);
const [openList, closeList, openObject, closeObject] = Buffer.from('[]{}');

/**
 * Whether a JSON text nests lists and objects deeper than `levelsMax`. Looks at the text alone: what it stands for can be millions of
 * lists, and what walks through them recurses. Of a text that is not JSON the answer is true of the part before its first mistake.
 */
export function nestsBeyond(levelsMax: number, text: Uint8Array): boolean {
  let levels = 0;
  for (let at = 0; at < text.length; at += 1) {
    const byte = text[at];
    if (byte === quote) at = endOfString(text, at);
    else if (byte === openList || byte === openObject) levels += 1;
    else if (byte === closeList || byte === closeObject) levels -= 1;
    if (levels > levelsMax) return true;
  }
  return false;
}

/** Where the closing quote is of the string that begins at `begin`. */
function endOfString(text: Uint8Array, begin: number): number {
  for (let at = begin + 1; at < text.length; at += 1) {
    if (text[at] === backslash) at += 1;
    else if (text[at] === quote) return at;
  }
  return text.length;
}
