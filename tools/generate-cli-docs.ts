// Writes docs/cli.md, the reference of the command line, from the very commands that run. With --check it writes
// nothing and fails when the file is not what it would write.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command, Option } from 'commander';
import { optionsOfVerb } from '../src/cli/command.ts';
import { exitCodes } from '../src/cli/exit-code.ts';
import { nouns } from '../src/cli/nouns.ts';
import { pathOf, wholeProgram } from '../src/cli/program.ts';

/** Where the reference is kept. */
export const referencePath = join(import.meta.dirname, '../docs/cli.md');

/** The whole reference as Markdown. */
export async function cliReference(): Promise<string> {
  const program = await wholeProgram();
  const commands = program.commands;
  const parts = [introduction, contents(commands), globalOptions(program), conventions, exitCodeTable()];
  for (const command of commands) {
    parts.push(
      command.commands.length > 0 ? nounSection(command) : `## lodge ${command.name()}\n\n${verbBody(command)}`,
    );
  }
  return `${parts.join('\n\n')}\n`;
}

const introduction = `# The command line

<!-- Written by tools/generate-cli-docs.ts from the commands themselves: change them, then run "node tools/generate-cli-docs.ts". -->

\`lodge\` is the command line of Lodge. It speaks to the daemon of this machine over its unix socket, or to one elsewhere over HTTPS with an access token, and can do nothing that the API can not. A command is a noun and a verb:

\`\`\`
lodge vm create web1 --image debian-12 --cpus 2 --memory 2GiB --disk 20GiB --ssh-key ~/.ssh/id_ed25519.pub
lodge vm list
lodge vm console web1
\`\`\`

Every command tells about itself with \`--help\`; \`lodge completion bash|zsh|fish\` makes the shell complete nouns, verbs, options and the names of objects.`;

function contents(commands: readonly Command[]): string {
  const rows = commands.map((command) => {
    const summary = nouns.find((entry) => entry.name === command.name())?.summary ?? command.summary();
    return `| [\`lodge ${command.name()}\`](#lodge-${command.name()}) | ${cell(summary)} |`;
  });
  return ['| Command | What it is for |', '|---|---|', ...rows].join('\n');
}

function globalOptions(program: Command): string {
  const options = program.options.filter((option) => option.long !== '--version');
  return `## Options of every command

They may stand anywhere on the line. Which daemon is spoken to is decided by the first of these that says something: the options, the variables \`LODGE_SERVER\` or \`LODGE_SOCKET\`, the context of \`LODGE_CONTEXT\` or the current one of the configuration, and at last the socket \`/run/lodge/lodge.sock\`.

${optionTable(options)}

\`lodge --version\` prints the version of the command line, and needs no daemon.`;
}

const conventions = `## Conventions

**Output.** Results go to stdout; progress, hints and errors go to stderr. \`-o table\` (the default) and \`-o wide\` are for people and may change; \`-o json\`, \`-o yaml\` and \`-o name\` are for scripts. \`-o json\` of a list is an array; \`-o yaml\` is a stream of documents. Both are what \`lodge apply\` takes. Colours appear on a terminal only; \`NO_COLOR\` switches them off, \`FORCE_COLOR\` on. What guests and other users have put into names and messages is shown with its control characters escaped.

**Sizes** are a number and a unit: \`512MiB\`, \`2GiB\`, \`1.5TiB\`. \`K\`, \`M\`, \`G\`, \`T\` mean the same as \`KiB\`, \`MiB\`, \`GiB\`, \`TiB\`; \`KB\`, \`MB\`, \`GB\`, \`TB\` are powers of 1000. A bare number is MiB for memory and GiB for disks. What is not whole MiB is rounded up.

**Durations** are \`90s\`, \`5m\`, \`1h30m\`, \`2d\`; a bare number is seconds.

**Waiting.** Commands that start an operation wait for it and show how it gets on; \`--no-wait\` ends as soon as the daemon has taken it on and prints the task's id. Ctrl-C ends the waiting, never the operation, and says how to follow or cancel it.

**Selecting.** Lists take label selectors (\`-l app=web,tier!=db,env in (prod,test),!legacy\`) and conditions on fields (\`--filter status.state=running,spec.memoryMib>=1024,name~web\`; all must hold; a bare field holds when it is set, \`!field\` when it is not). Verbs that work on several VMs take names, \`-l\`, or \`--all\`.

**Configuration.** \`~/.config/lodge/config.yaml\` (or \`$XDG_CONFIG_HOME/lodge/config.yaml\`, or \`LODGE_CONFIG\`) holds contexts: named daemons with their tokens. It is written with mode 0600. \`lodge context\` manages it.`;

function exitCodeTable(): string {
  const rows = Object.values(exitCodes).map(({ code, meaning }) => `| ${code} | ${cell(meaning)} |`);
  return ['## Exit codes', '', '| Code | Meaning |', '|---|---|', ...rows].join('\n');
}

function nounSection(noun: Command): string {
  const entry = nouns.find((one) => one.name === noun.name());
  const aliases = entry?.aliases ?? [];
  const also = aliases.length > 0 ? ` Also written ${aliases.map((alias) => `\`lodge ${alias}\``).join(', ')}.` : '';
  // A noun may have nouns of its own: lodge vm disk add.
  const all = noun.commands.flatMap((one) => (one.commands.length > 0 ? one.commands : [one]));
  const verbs = all.map((verb) => `### ${pathOf(verb)}\n\n${verbBody(verb)}`);
  return [`## lodge ${noun.name()}`, `${entry?.summary ?? noun.summary()}.${also}`, ...verbs].join('\n\n');
}

function verbBody(verb: Command): string {
  const { examples = [] } = optionsOfVerb(verb);
  const aliases = verb.parent?.parent ? verb.aliases() : [];
  const also = aliases.length > 0 ? ` Also \`${aliases.join('`, `')}\`.` : '';
  const options = verb.options.filter((option) => !option.hidden);
  const parts = [`\`\`\`\n${pathOf(verb)} ${verb.usage()}\n\`\`\``, `${text(verb.description())}${also}`];
  if (options.length > 0) parts.push(optionTable(options));
  if (examples.length > 0) {
    const lines = examples.flatMap(([line, what]) => [`# ${what}`, line]);
    parts.push(`\`\`\`sh\n${lines.join('\n')}\n\`\`\``);
  }
  return parts.join('\n\n');
}

function optionTable(options: readonly Option[]): string {
  const rows = options.map((option) => {
    const facts = [option.description];
    if (option.argChoices && option.argChoices.length > 0) facts.push(`One of ${option.argChoices.join(', ')}.`);
    const value: unknown = option.defaultValue;
    const shown = option.defaultValueDescription ?? (typeof value === 'string' ? value : undefined);
    if (shown !== undefined) facts.push(`Default: ${shown}.`);
    return `| \`${option.flags.replaceAll('|', '\\|')}\` | ${cell(facts.join('. ').replaceAll('..', '.'))} |`;
  });
  return ['| Option | What it does |', '|---|---|', ...rows].join('\n');
}

/** Text in a cell: "|" ends a cell, "<" begins HTML. */
function cell(value: string): string {
  return value.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

function text(value: string): string {
  return value.replaceAll('<', '&lt;');
}

if (process.argv[1] === import.meta.filename) {
  const reference = await cliReference();
  if (!process.argv.includes('--check')) {
    writeFileSync(referencePath, reference);
    process.stdout.write(`${referencePath} is written.\n`);
  } else if (readFileSync(referencePath, 'utf8') !== reference) {
    process.stderr.write('docs/cli.md is not what the commands say. Write it again: node tools/generate-cli-docs.ts\n');
    process.exitCode = 1;
  }
}
