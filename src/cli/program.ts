// The program: finds noun and verb of a command line, loads that noun's code, lets the verb run, and tells what went
// wrong. `lodge --help` and `lodge help vm create` need no daemon.
import { Command, CommanderError } from 'commander';
import type { LodgeError } from '../api/errors.ts';
import { closestWord } from '../lib/closest-word.ts';
import { nextWord, separateCommand } from './arguments.ts';
import { addConnectionOptions, optionsOfVerb, prepare } from './command.ts';
import { exitCodes } from './exit-code.ts';
import { findNoun, nouns, nounWords } from './nouns.ts';
import { AlreadyPrinted, describeError, exitCodeFor, Interrupted } from './output/print-error.ts';
import { styleFor } from './output/style.ts';
import { usageError } from './usage-error.ts';

/** Runs one command line (without node and script). Sets the process's exit code; never throws. */
export async function runProgram(words: readonly string[]): Promise<void> {
  try {
    await dispatch(words);
  } catch (failure) {
    process.exitCode = report(failure);
  }
}

async function dispatch(words: readonly string[]): Promise<void> {
  if (words[0] === '__complete') {
    const { printCandidates } = await import('./complete.ts');
    await printCandidates(words.slice(1));
    return;
  }
  const first = nextWord(words);
  if (first.word === null) {
    const [unknown] = first.rest;
    if (unknown !== undefined && unknown !== '-h' && unknown !== '--help') {
      throw unknownOption(`unknown option ${JSON.stringify(unknown)}`, 'lodge');
    }
    rootCommand().outputHelp();
    return;
  }
  if (first.word === 'help') {
    const topic = first.rest.filter((word) => !word.startsWith('-'));
    await dispatch([...topic, '--help']);
    return;
  }
  const entry = findNoun(first.word);
  if (!entry) throw unknownCommand(first.word, nounWords(), 'lodge');

  const root = new Command('lodge');
  let command = await entry.load();
  root.addCommand(command);
  const moved = [...first.moved];
  let rest = first.rest;
  while (command.commands.length > 0) {
    const next = nextWord(rest);
    if (next.word === null) {
      const [unknown] = next.rest;
      const isHelp = unknown === '-h' || unknown === '--help';
      if (!isHelp && entry.withoutVerb && command.parent === root) {
        rest = entry.withoutVerb(rest);
        continue;
      }
      if (unknown !== undefined && !isHelp)
        throw unknownOption(`unknown option ${JSON.stringify(unknown)}`, pathOf(command));
      command.outputHelp();
      return;
    }
    const word = next.word;
    const verb = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    if (!verb) {
      const known = command.commands.flatMap((one) => [one.name(), ...one.aliases()]);
      throw unknownCommand(word, known, pathOf(command));
    }
    moved.push(...next.moved);
    rest = next.rest;
    command = verb;
  }
  const own = optionsOfVerb(command).takesCommand === true ? separateCommand(command, rest) : rest;
  try {
    await command.parseAsync([...moved, ...own], { from: 'user' });
  } catch (failure) {
    if (failure instanceof CommanderError) throw fromCommander(failure, command);
    throw failure;
  }
}

/** The words that lead to a command: "lodge vm create". */
export function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}

/** The root as its help shows it: every noun by its summary, without its code. */
export function rootCommand(): Command {
  const root = new Command('lodge')
    .usage('[options] <noun> <verb>')
    .description('Lodge runs virtual machines, on this machine and others. A command is a noun and a verb.');
  prepare(root);
  for (const entry of nouns) {
    const stub = new Command(entry.name).summary(entry.summary).helpGroup(entry.group).usage('');
    prepare(stub);
    root.addCommand(stub);
  }
  addConnectionOptions(root, false);
  root.option('-o, --output <format>', 'table, wide, name, json or yaml, where a verb prints objects');
  root.option('-q, --quiet', 'print results and errors only');
  root.option('-V, --version', 'print the version of this command line');
  root.addHelpText(
    'after',
    `\n${firstSteps}\n\n${exitCodeText()}\n\nMore: lodge help <noun>, lodge <noun> <verb> --help`,
  );
  return root;
}

const firstSteps = `Examples:
  # a server to sign in to
  lodge image build debian-12
  lodge vm create web1 --image debian-12 --cpus 2 --memory 2GiB --disk 20GiB --ssh-key ~/.ssh/id_ed25519.pub
  lodge vm ssh web1
  # what there is, and what happens
  lodge vm list
  lodge events --follow`;

function exitCodeText(): string {
  const rows = Object.values(exitCodes).map(({ code, meaning }) => `  ${String(code).padEnd(4)}${meaning}`);
  return ['Exit codes:', ...rows].join('\n');
}

/** The whole tree with every noun's verbs; for the reference and for completion. */
export async function wholeProgram(): Promise<Command> {
  const root = rootCommand();
  const whole = new Command('lodge').description(root.description()).usage('[options] <noun> <verb>');
  for (const option of root.options) whole.addOption(option);
  for (const entry of nouns) {
    const command = await entry.load();
    for (const alias of entry.aliases ?? []) command.alias(alias);
    whole.addCommand(command);
  }
  return whole;
}

function unknownCommand(word: string, known: readonly string[], path: string): LodgeError {
  const near = closestWord(word, known);
  const what = path === 'lodge' ? 'a command of lodge' : `a verb of ${path}`;
  return usageError(`${JSON.stringify(word.slice(0, 60))} is not ${what}`, {
    hint: `${near === null ? '' : `Did you mean ${path} ${near}? `}See ${path} --help.`,
  });
}

function unknownOption(message: string, path: string): LodgeError {
  return usageError(message, { hint: `See ${path} --help.` });
}

/** Commander's words for a mistake in the command line, in our form. */
function fromCommander(failure: CommanderError, command: Command): Error {
  if (failure.code === 'commander.helpDisplayed' || failure.code === 'commander.help') return new AlreadyPrinted(0);
  const path = pathOf(command);
  const [line = '', ...more] = failure.message.replace(/^error: /, '').split('\n');
  const suggestion = more.join(' ').replace(/^\((.*)\)$/, '$1 ');
  const isAboutWords = /Argument/.test(failure.code) && failure.code !== 'commander.invalidArgument';
  const usage = isAboutWords ? `Usage: ${path} ${command.usage()}. ` : '';
  return usageError(line.replace(/\.$/, ''), {
    hint: `${suggestion}${usage}See ${path} --help.`,
  });
}

function report(failure: unknown): number {
  if (!(failure instanceof AlreadyPrinted) && !(failure instanceof Interrupted)) {
    for (const line of describeError(failure, styleFor(process.stderr))) process.stderr.write(`${line}\n`);
    if ((process.env['LODGE_DEBUG'] ?? '') !== '') process.stderr.write(`${chain(failure)}\n`);
  }
  return exitCodeFor(failure);
}

function chain(failure: unknown): string {
  const parts: string[] = [];
  for (let current = failure; current instanceof Error && parts.length < 6; current = current.cause) {
    parts.push(current.stack ?? current.message);
  }
  return parts.join('\ncaused by: ');
}
