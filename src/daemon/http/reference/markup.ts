// HTML from values, escaped unless it is markup already.

/** Markup that is safe to insert as it is. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Part = string | number | Markup | null | false | readonly Part[];

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** `markup\`<p>${text}</p>\``: what is inserted is escaped, lists are joined, null and false are nothing. */
export function markup(strings: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  let text = strings[0] ?? '';
  for (const [index, part] of parts.entries()) text += asText(part) + (strings[index + 1] ?? '');
  return new Markup(text);
}

function asText(part: Part): string {
  if (part === null || part === false) return '';
  if (part instanceof Markup) return part.text;
  if (typeof part === 'object') return part.map(asText).join('');
  return String(part).replace(/[&<>"']/g, (character) => entities[character] ?? character);
}

/** Text with **bold** and `code`; an empty line begins a paragraph. */
export function prose(text: string): Markup[] {
  return text.split(/\n\n+/).map((paragraph) => markup`<p>${inline(paragraph)}</p>`);
}

/** Text with **bold** and `code`, without paragraphs. */
export function inline(text: string): Markup[] {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((piece) => {
    if (piece.startsWith('`') && piece.length > 2) return markup`<code>${piece.slice(1, -1)}</code>`;
    if (piece.startsWith('**') && piece.length > 4) return markup`<strong>${piece.slice(2, -2)}</strong>`;
    return markup`${piece}`;
  });
}
