// How commands are made: a noun, its verbs, the options every verb takes, examples in the help, and the frame around
// every action: connect, run, disconnect.
import { Command, InvalidArgumentError, Option } from 'commander';
import { openSession, type GlobalOptions, type Session } from './connect/session.ts';
import { outputFormats, type OutputFormat } from './output/print.ts';

/** One example of the help: what to type and what it does. */
export type Example = readonly [line: string, what: string];

export interface VerbOptions {
  /** More about it, for the help. */
  description?: string;
  examples?: readonly Example[];
  /** Formats of -o that make sense; without it, the verb prints no objects. */
  formats?: readonly OutputFormat[];
  aliases?: readonly string[];
  /** How its arguments are written, where that is not what commander makes of them. */
  usage?: string;
  /** Speaks to no daemon, so takes no options for one. */
  isOffline?: boolean;
  /** What follows the first operand is a command line for somebody else: its options are not ours. */
  takesCommand?: boolean;
}

const verbOptions = new WeakMap<Command, VerbOptions>();

/** What a verb was made with. */
export function optionsOfVerb(command: Command): VerbOptions {
  return verbOptions.get(command) ?? {};
}

/** Makes a noun, to which verbs are added. */
export function noun(name: string, summary: string): Command {
  const command = new Command(name).summary(summary).description(`${summary}.`).usage('<verb>');
  prepare(command);
  command.addHelpText('after', () => `\nMore: ${wordsTo(command)} <verb> --help`);
  return command;
}

/** The words that lead to a noun: "lodge vm disk". */
function wordsTo(command: Command): string {
  const { parent } = command;
  return parent === null
    ? `lodge ${command.name()}`
    : `${parent.name() === 'lodge' ? 'lodge' : wordsTo(parent)} ${command.name()}`;
}

/** Adds a verb: `usage` is its name and arguments as commander has them. */
export function verb(parent: Command, usage: string, summary: string, options: VerbOptions = {}): Command {
  const [name = '', ...rest] = usage.split(' ');
  const command = new Command(name).summary(summary).description(options.description ?? `${summary}.`);
  if (rest.length > 0) command.arguments(rest.join(' '));
  if (options.usage !== undefined) command.usage(options.usage);
  if (options.aliases) command.aliases([...options.aliases]);
  prepare(command);
  verbOptions.set(command, options);
  if (options.formats) {
    command.addOption(new Option('-o, --output <format>', 'how to print it').choices(options.formats));
  }
  if (options.isOffline !== true) addConnectionOptions(command, true);
  command.addOption(new Option('-q, --quiet', 'print results and errors only').hideHelp(options.isOffline !== true));
  if (options.examples && options.examples.length > 0) {
    command.addHelpText('after', () => `\n${examplesText(options.examples ?? [])}`);
  }
  if (options.isOffline !== true) {
    command.addHelpText(
      'after',
      '\nGlobal options (-p, --context, --socket, --server, --token, -q …): see lodge --help',
    );
  }
  parent.addCommand(command);
  return command;
}

/** The formats of a list, and of one object. */
export const listFormats = outputFormats;
export const objectFormats: readonly OutputFormat[] = ['table', 'name', 'json', 'yaml'];
export const documentFormats: readonly OutputFormat[] = ['table', 'json', 'yaml'];

/** Adds the options that say which daemon and project; hidden in the help of verbs, where they would be noise. */
export function addConnectionOptions(command: Command, isHidden: boolean): void {
  const options = [
    new Option('-p, --project <name>', 'project in which names are looked up (default: default)').env('LODGE_PROJECT'),
    new Option('--context <name>', 'context of the configuration (lodge context list)').env('LODGE_CONTEXT'),
    new Option('--socket <path>', 'unix socket of the daemon').env('LODGE_SOCKET'),
    new Option('--server <url>', 'HTTPS address of the daemon, such as https://host:7443').env('LODGE_SERVER'),
    new Option('--token <token>', 'access token; visible to other users in the process list').env('LODGE_TOKEN'),
    new Option('--token-file <path>', 'file with the access token').env('LODGE_TOKEN_FILE'),
    new Option('--ca <path>', 'PEM certificate of the authority that signed the daemon’s').env('LODGE_CA'),
  ];
  for (const option of options) {
    // The variables are named for the help; connection.ts reads them, because their order of precedence matters.
    if (option.envVar !== undefined) {
      option.description = `${option.description} (${option.envVar})`;
      option.envVar = undefined;
    }
    command.addOption(option.hideHelp(isHidden));
  }
}

/** What all commands share: errors with suggestions, exit by exception, help in our style. */
export function prepare(command: Command): void {
  command
    .exitOverride()
    .showSuggestionAfterError(true)
    .helpOption('-h, --help', 'show this help')
    .helpCommand(false)
    .configureOutput({ outputError: () => undefined })
    .configureHelp({
      optionDescription,
      subcommandTerm: (sub) => [sub.name(), sub.usage().replace(/^\[options\] ?/, '')].filter(Boolean).join(' '),
      styleTitle: (title) => `\u001b[1m${title}\u001b[22m`,
    });
}

/** What an option is for, with what it takes and what it is without it. */
function optionDescription(option: Option): string {
  const facts: string[] = [];
  if (option.argChoices && option.argChoices.length > 0) facts.push(`one of ${option.argChoices.join(', ')}`);
  const value: unknown = option.defaultValue;
  const shown = option.defaultValueDescription ?? (typeof value === 'string' ? value : undefined);
  if (shown !== undefined) facts.push(`default: ${shown}`);
  return facts.length === 0 ? option.description : `${option.description} (${facts.join('; ')})`;
}

/** The examples of a verb, for the help and the reference. */
export function examplesText(examples: readonly Example[]): string {
  return ['Examples:', ...examples.flatMap(([line, what]) => [`  # ${what}`, `  ${line}`])].join('\n');
}

/** The frame around an action that speaks to the daemon. What the body gives is the exit code; nothing is 0. */
export function withDaemon<Args extends unknown[], Options extends object>(
  body: (session: Session, options: Options & GlobalOptions, ...args: Args) => Promise<number | void>,
): (...given: unknown[]) => Promise<void> {
  return async (...given) => {
    const command = given.at(-1) as Command;
    const options = command.opts<Options & GlobalOptions>();
    const session = await openSession(options);
    try {
      process.exitCode = (await body(session, options, ...(command.processedArgs as Args))) ?? 0;
    } finally {
      session.close();
    }
  };
}

/** The frame around an action that speaks to no daemon. */
export function offline<Args extends unknown[], Options extends object>(
  body: (options: Options & GlobalOptions, ...args: Args) => Promise<number | void> | number | void,
): (...given: unknown[]) => Promise<void> {
  return async (...given) => {
    const command = given.at(-1) as Command;
    process.exitCode = (await body(command.opts<Options & GlobalOptions>(), ...(command.processedArgs as Args))) ?? 0;
  };
}

/** An option's parser from a function that throws what is wrong. */
export function parsedBy<Value>(parse: (text: string) => Value): (text: string) => Value {
  return (text) => {
    try {
      return parse(text);
    } catch (failure) {
      throw new InvalidArgumentError(failure instanceof Error ? failure.message : String(failure));
    }
  };
}

/** The parser of an option that may be given several times. */
export function collected(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}

/** A whole number within limits. */
export function wholeNumber(minimum: number, maximum: number): (text: string) => number {
  return parsedBy((text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text.trim()) || value < minimum || value > maximum) {
      throw new Error(`it must be a whole number from ${minimum} to ${maximum}.`);
    }
    return value;
  });
}
