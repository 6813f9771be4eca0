// Printing objects: a table or details for people; json, yaml and names for scripts.
import type { Session } from '../connect/session.ts';
import { renderTable, type Column } from './table.ts';
import { usageError } from '../usage-error.ts';

export const outputFormats = ['table', 'wide', 'name', 'json', 'yaml'] as const;
export type OutputFormat = (typeof outputFormats)[number];

/** What is printed, how its columns look, and how one is called. */
export interface Printable<Item> {
  /** Stands as `kind` in json and yaml; what `lodge apply` takes. */
  kind: string;
  columns: readonly Column<Item>[];
  name: (item: Item) => string;
}

/** Prints a list. `empty` is said when there is nothing, so that an empty answer is not a riddle. */
export async function printList<Item extends object>(
  session: Pick<Session, 'format' | 'terminal'>,
  printable: Printable<Item>,
  items: readonly Item[],
  empty: string,
): Promise<void> {
  const { format, terminal } = session;
  if (await printForScripts(session, printable, items, true)) return;
  if (items.length === 0) {
    terminal.note(empty);
    return;
  }
  const options = { width: terminal.width, style: terminal.style, isWide: format === 'wide' };
  for (const line of renderTable(printable.columns, items, options)) terminal.line(line);
}

/** Prints one object: its details for people, or the object for scripts. */
export async function printOne<Item extends object>(
  session: Pick<Session, 'format' | 'terminal'>,
  printable: Printable<Item>,
  item: Item,
  details: (item: Item) => readonly string[],
): Promise<void> {
  if (await printForScripts(session, printable, [item], false)) return;
  for (const line of details(item)) session.terminal.line(line);
}

/** Prints json, yaml or names; false when the format is one for people. */
async function printForScripts<Item extends object>(
  session: Pick<Session, 'format' | 'terminal'>,
  printable: Printable<Item>,
  items: readonly Item[],
  isList: boolean,
): Promise<boolean> {
  const { format, terminal } = session;
  const withKind = (item: Item): object => ({ kind: printable.kind, ...item });
  switch (format) {
    case 'json':
      terminal.line(JSON.stringify(isList ? items.map(withKind) : withKind(items[0] ?? ({} as Item)), null, 2));
      return true;
    case 'yaml':
      terminal.raw(await toYaml(items.map(withKind)));
      return true;
    case 'name':
      for (const item of items) terminal.line(printable.name(item));
      return true;
    case 'table':
    case 'wide':
      return false;
  }
}

/** Prints an answer that is not an object of the contract: the lines for people, or the document for scripts. */
export async function printDocument(
  session: Pick<Session, 'format' | 'terminal'>,
  document: object,
  lines: () => readonly string[],
): Promise<void> {
  const { format, terminal } = session;
  if (format === 'json') terminal.line(JSON.stringify(document, null, 2));
  else if (format === 'yaml') terminal.raw(await toYaml([document]));
  else if (format === 'name') {
    throw usageError('this has no names to print with -o name', {
      hint: 'Use -o json or yaml.',
    });
  } else for (const line of lines()) terminal.line(line);
}

/** Documents as YAML, several separated by "---". */
export async function toYaml(documents: readonly object[]): Promise<string> {
  const { stringify } = await import('yaml');
  // Long strings stay on one line and in one style, so that a diff of two exports shows what differs.
  return documents.map((one) => stringify(one, { lineWidth: 0, aliasDuplicateObjects: false })).join('---\n');
}
