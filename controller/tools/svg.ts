/** SVG text: the few shapes that plots are made of. Coordinates in pixels, y downwards. */
export type Point = readonly [x: number, y: number];

const escapes: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
};

const escaped = (text: string): string =>
  text.replaceAll(/[&<>"]/g, (character) => escapes[character] ?? '');

/** Two decimals are enough for a screen and keep files small. */
const number = (value: number): string => String(Math.round(value * 100) / 100);

export function line([x1, y1]: Point, [x2, y2]: Point, color: string): string {
  return `<line x1="${number(x1)}" y1="${number(y1)}" x2="${number(x2)}" y2="${number(y2)}" stroke="${color}"/>`;
}

export function polyline(points: readonly Point[], color: string): string {
  const path = points.map(([x, y]) => `${number(x)},${number(y)}`).join(' ');
  return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>`;
}

export function rectangle(
  [x, y]: Point,
  width: number,
  height: number,
  color: string,
  opacity = 1,
): string {
  return `<rect x="${number(x)}" y="${number(y)}" width="${number(width)}" height="${number(height)}" fill="${color}" fill-opacity="${opacity}"/>`;
}

export function text(
  [x, y]: Point,
  content: string,
  options: { readonly anchor?: 'start' | 'middle' | 'end'; readonly size?: number } = {},
): string {
  const { anchor = 'start', size = 12 } = options;
  return `<text x="${number(x)}" y="${number(y)}" text-anchor="${anchor}" font-size="${size}">${escaped(content)}</text>`;
}

export function svgDocument(width: number, height: number, shapes: readonly string[]): string {
  const head =
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    'font-family="sans-serif" fill="#222">';
  return `${[head, `<rect width="${width}" height="${height}" fill="#fff"/>`, ...shapes, '</svg>'].join('\n')}\n`;
}
