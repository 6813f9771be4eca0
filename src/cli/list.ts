// The verbs `list` and `show` that nouns have in common, and finding the objects a command line names.
import { Option, type Command } from 'commander';
import { LodgeError } from '../api/errors.ts';
import { closestWord } from '../lib/closest-word.ts';
import type { ChangeKind } from '../api/event.ts';
import type { LodgeClient } from '../client/client.ts';
import { listFormats, objectFormats, verb, wholeNumber, withDaemon, type Example } from './command.ts';
import type { Session } from './connect/session.ts';
import { printList, printOne, type Printable } from './output/print.ts';
import type { Column } from './output/table.ts';

/** One page, as every list route answers. */
export interface Page<Item> {
  items: Item[];
  total: number;
  continue: string | null;
  revision: number;
}

/** What may be asked of a list. */
export interface ListRequest {
  project?: string;
  selector?: string;
  filter?: string;
  sort?: string;
  limit?: number;
  continue?: string;
}

export type FetchPage<Item> = (client: LodgeClient, query: ListRequest) => Promise<Page<Item>>;

/** Largest page that the daemon gives. */
const pageSize = 500;

/** Options of every list. */
export interface ListOptions {
  selector?: string;
  filter?: string;
  sort?: string;
  limit?: number;
  allProjects?: boolean;
  project?: string;
  watch?: boolean;
}

/** Reads all pages, or as many objects as `limit` says. */
export async function collect<Item>(
  fetch: (query: ListRequest) => Promise<Page<Item>>,
  request: ListRequest,
  limit = Infinity,
): Promise<Item[]> {
  const items: Item[] = [];
  let token: string | undefined;
  while (items.length < limit) {
    const size = Math.min(pageSize, limit - items.length);
    const page = await fetch({ ...request, limit: size, continue: token });
    items.push(...page.items);
    if (page.continue === null) break;
    token = page.continue;
  }
  return items;
}

export interface ListVerb<Item> {
  noun: string;
  plural: string;
  printable: Printable<Item>;
  fetch: FetchPage<Item>;
  /** Said when there is none, and nothing was selected: how to make one. */
  empty: string;
  examples: readonly Example[];
  /** Objects of all projects are shown unless one is given. */
  isAcrossProjects?: boolean;
  /** Project of an item, for the column that lists over several have. */
  projectOf?: (item: Item) => string;
  /** Adds options of its own. */
  configure?: (command: Command) => void;
  /** Conditions that these options add to the filter. */
  extraFilter?: (options: Record<string, unknown>) => string[];
  /** Default of --limit, where all would be too many. */
  defaultLimit?: number;
  /** What the event stream calls these objects. */
  kind: ChangeKind;
}

/** Adds the verb `list`. */
export function listVerb<Item extends object>(parent: Command, definition: ListVerb<Item>): Command {
  const { noun, plural, printable, isAcrossProjects = false, defaultLimit } = definition;
  const command = verb(parent, 'list', `List ${plural}`, {
    aliases: ['ls'],
    formats: listFormats,
    examples: definition.examples,
    description: isAcrossProjects
      ? `List ${plural}.`
      : `List the ${plural} of the project, or of all projects with -A.`,
  })
    .option('-l, --selector <labels>', 'only those with these labels: app=web,tier!=db,env in (prod,test),!legacy')
    .option(
      '--filter <conditions>',
      'only those whose fields are so: status.state=running,name~web; operators = != > >= < <= ~ !~',
    )
    .option('--sort <field>', 'sort by this field, "-" before it for descending: name, -createdAt')
    .addOption(
      new Option(
        '--limit <count>',
        defaultLimit === undefined
          ? 'at most this many (default: all)'
          : `at most this many (default: ${defaultLimit}; 0: all)`,
      ).argParser(wholeNumber(0, 1_000_000)),
    );
  command.option('-w, --watch', 'go on showing it as it changes, until Ctrl-C; not on a terminal, a line a change');
  if (!isAcrossProjects) command.option('-A, --all-projects', 'of all projects, with a column that says which');
  definition.configure?.(command);
  return command.action(
    withDaemon<[], ListOptions>(async (session, options) => {
      const isAll = options.allProjects === true || (isAcrossProjects && options.project === undefined);
      const extra = definition.extraFilter?.(options as Record<string, unknown>) ?? [];
      const filter = [...(options.filter === undefined ? [] : [options.filter]), ...extra].join(',');
      const request: ListRequest = {
        ...(isAll ? {} : { project: session.project }),
        ...(options.selector === undefined ? {} : { selector: options.selector }),
        ...(filter === '' ? {} : { filter }),
        ...(options.sort === undefined ? {} : { sort: options.sort }),
      };
      const limit = options.limit ?? defaultLimit ?? 0;
      const read = (): Promise<Item[]> =>
        collect((query) => definition.fetch(session.client, query), request, limit === 0 ? Infinity : limit);
      const isSelected = options.selector !== undefined || options.filter !== undefined;
      const where = isAll || isAcrossProjects ? '' : ` in project ${session.project}`;
      const empty = isSelected ? `No ${noun}${where} matches.` : `No ${plural}${where}. ${definition.empty}`.trimEnd();
      const { projectOf } = definition;
      const columns: readonly Column<Item>[] =
        options.allProjects === true && projectOf
          ? [{ header: 'PROJECT', value: projectOf }, ...printable.columns]
          : printable.columns;
      if (options.watch === true) {
        const { watchList } = await import('./watch-list.ts');
        await watchList(session, { kind: definition.kind, printable: { ...printable, columns }, read, empty });
        return;
      }
      await printList(session, { ...printable, columns }, await read(), empty);
    }),
  );
}

export interface ShowVerb<Item> {
  noun: string;
  printable: Printable<Item>;
  get: (session: Session, name: string) => Promise<Item>;
  details: (item: Item, session: Session) => readonly string[] | Promise<readonly string[]>;
  examples: readonly Example[];
  /** How it is called in a sentence, where that is not the noun. */
  label?: string;
  /** What its argument is called, and whether it may be left out. */
  argument?: string;
  defaultName?: string;
}

/** Adds the verb `show`. */
export function showVerb<Item extends object>(parent: Command, definition: ShowVerb<Item>): Command {
  const { noun, argument = `<${noun}>` } = definition;
  return verb(parent, `show ${argument}`, `Show everything about one ${definition.label ?? noun}`, {
    aliases: ['get'],
    formats: objectFormats,
    examples: definition.examples,
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const item = await definition.get(session, name ?? definition.defaultName ?? '');
      const isForPeople = session.format === 'table' || session.format === 'wide';
      const lines = isForPeople ? await definition.details(item, session) : [];
      await printOne(session, definition.printable, item, () => lines);
    }),
  );
}

/** Options of verbs that work on several objects. */
export interface SelectionOptions {
  selector?: string;
  all?: boolean;
}

/** Runs a lookup, and when nothing has the name, says which one was probably meant. */
export async function withSuggestion<Result>(
  session: Session,
  name: string,
  fetch: FetchPage<{ name: string }>,
  body: () => Promise<Result>,
): Promise<Result> {
  try {
    return await body();
  } catch (failure) {
    if (!(failure instanceof LodgeError) || failure.code !== 'not_found') throw failure;
    const names = await fetch(session.client, { project: session.project, limit: pageSize }).then(
      (page) => page.items.map((item) => item.name),
      () => [],
    );
    const near = closestWord(name, names);
    if (near === null || near === name) throw failure;
    throw new LodgeError('not_found', failure.message, { hint: `Did you mean ${near}?`, cause: failure });
  }
}
