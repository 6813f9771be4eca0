// What can follow on a command line: for the completion of shells (`lodge __complete <words…>`, the last word being the
// one that is typed). Prints a candidate a line, with a tab and what it is; ":files" asks the shell for its files.
// Never fails and never asks the daemon for longer than a moment: a completion that hangs is worse than none.
import type { Command, Option } from 'commander';
import { nextWord } from './arguments.ts';
import { sizeText } from './view.ts';
import { findNoun, nouns } from './nouns.ts';
import { outputFormats } from './output/print.ts';
import type { ChangeableNoun } from './set.ts';

/** One candidate. */
export interface Candidate {
  word: string;
  what?: string;
}

/** Names of objects, by what they are; asked from the daemon. */
export type NameSource = (kind: NamedKind, words: readonly string[]) => Promise<Candidate[]>;
export type NamedKind =
  | 'vm'
  | 'snapshot'
  | 'image'
  | 'volume'
  | 'network'
  | 'security-group'
  | 'address-set'
  | 'template'
  | 'profile'
  | 'group'
  | 'instance-type'
  | 'node'
  | 'task'
  | 'token'
  | 'context';

export interface Completion {
  candidates: Candidate[];
  wantsFiles: boolean;
}

/** Options whose value is the name of something. */
const namesOfOption: Readonly<Record<string, NamedKind>> = {
  '--image': 'image',
  '--vm': 'vm',
  '--template': 'template',
  '--profile': 'profile',
  '--member': 'vm',
  '--add': 'vm',
  '--remove': 'vm',
  '--type': 'instance-type',
  '--cdrom': 'image',
  '--network': 'network',
  '--security-group': 'security-group',
  '--context': 'context',
};
const fileOptions = new Set([
  '--ssh-key',
  '--identity',
  '--user-data',
  '--network-config',
  '--ca',
  '--token-file',
  '--file',
  '--socket',
]);
const namedKinds = new Set<string>([
  'vm',
  'template',
  'profile',
  'group',
  'instance-type',
  'snapshot',
  'image',
  'volume',
  'network',
  'security-group',
  'address-set',
  'node',
  'task',
  'token',
  'context',
]);

/** Works out the candidates for the last word. */
export async function complete(words: readonly string[], names: NameSource): Promise<Completion> {
  const current = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  const first = nextWord(before);
  if (first.word === null) {
    const pending = valueOfGlobal(before.at(-1));
    if (pending === 'format')
      return filtered(
        outputFormats.map((word) => ({ word })),
        current,
      );
    if (pending === 'context') return filtered(await names('context', words), current);
    if (pending !== null) return { candidates: [], wantsFiles: pending === 'file' };
    if (current.startsWith('-')) return { candidates: globalOptions(current), wantsFiles: false };
    const help = before.length === 0 ? [{ word: 'help', what: 'Help for a noun or verb' }] : [];
    return filtered([...nouns.map(({ name, summary }) => ({ word: name, what: summary })), ...help], current);
  }
  const isHelp = first.word === 'help';
  const inside = isHelp ? nextWord(first.rest) : first;
  if (inside.word === null)
    return filtered(
      nouns.map(({ name, summary }) => ({ word: name, what: summary })),
      current,
    );
  const entry = findNoun(inside.word);
  if (!entry) return { candidates: [], wantsFiles: false };

  let command: Command = await entry.load();
  let rest = inside.rest;
  while (command.commands.length > 0) {
    const next = nextWord(rest);
    // `lodge events --follow` and the like: the noun's first word is an option of the verb it stands for.
    if (next.word === null && entry.name === 'event' && current.startsWith('--')) {
      return filtered(
        [
          { word: '--follow', what: 'show what happens from now on' },
          { word: '--help', what: 'show help' },
        ],
        current,
      );
    }
    if (next.word === null) {
      return filtered(
        command.commands.map((verb) => ({ word: verb.name(), what: verb.summary() })),
        current,
      );
    }
    const verb = command.commands.find((one) => one.name() === next.word || one.aliases().includes(next.word ?? ''));
    if (!verb) return { candidates: [], wantsFiles: false };
    command = verb;
    rest = next.rest;
  }
  if (isHelp) return { candidates: [], wantsFiles: false };
  return completeVerb(command, rest, current, names, words);
}

async function completeVerb(
  verb: Command,
  rest: readonly string[],
  current: string,
  names: NameSource,
  words: readonly string[],
): Promise<Completion> {
  let operands = 0;
  let pending: Option | null = null;
  let isLiteral = false;
  const operandWords: string[] = [];
  for (const word of rest) {
    if (pending) {
      pending = null;
    } else if (!isLiteral && word === '--') isLiteral = true;
    else if (!isLiteral && word.startsWith('-') && word !== '-') {
      const option = optionOf(verb, word);
      if (option?.required === true && !hasValue(word)) pending = option;
    } else {
      operands += 1;
      operandWords.push(word);
    }
  }
  if (pending) return completeValue(pending, current, '', names, words);
  if (!isLiteral && current.startsWith('--') && current.includes('=')) {
    const at = current.indexOf('=');
    const option = optionOf(verb, current.slice(0, at));
    return option
      ? completeValue(option, current.slice(at + 1), current.slice(0, at + 1), names, words)
      : { candidates: [], wantsFiles: false };
  }
  if (!isLiteral && current.startsWith('-')) {
    const options = verb.options.filter((option) => !option.hidden && option.long !== undefined);
    const flags = options.map((option) => ({ word: option.long ?? '', what: option.description }));
    return filtered([...flags, { word: '--help', what: 'show help' }], current);
  }
  const args = verb.registeredArguments;
  const argument = args[Math.min(operands, args.length - 1)];
  if (!argument || (operands >= args.length && !argument.variadic)) return { candidates: [], wantsFiles: false };
  const kind = argument.name();
  if (kind === 'path') {
    // The files of a guest are not known here.
    if (/^[a-z0-9-]+:/.test(current)) return { candidates: [], wantsFiles: false };
    if (/^[./~]/.test(current)) return { candidates: [], wantsFiles: true };
    const vms = (await names('vm', words)).map(({ word }) => ({ word: `${word}:/`, what: 'a file in this VM' }));
    return { ...filtered(vms, current), wantsFiles: true };
  }
  if (kind === 'source' || kind === 'file' || kind === 'command') return { candidates: [], wantsFiles: true };
  if (kind === 'change') return filtered(await changeCandidates(verb.parent?.name() ?? '', current), current);
  if (kind === 'recipe') {
    const { imageRecipe } = await import('../api/image.ts');
    return filtered(
      imageRecipe.options.map((word) => ({ word })),
      current,
    );
  }
  if (kind === 'shell')
    return filtered(
      ['bash', 'zsh', 'fish'].map((word) => ({ word })),
      current,
    );
  if (kind === 'route') {
    const { allRoutes } = await import('../api/contract.ts');
    return filtered(
      allRoutes().map(({ id, route }) => ({ word: id, what: route.summary })),
      current,
    );
  }
  if (!namedKinds.has(kind)) return { candidates: [], wantsFiles: false };
  const given = new Set(operandWords);
  return filtered(
    (await names(kind as NamedKind, words)).filter(({ word }) => !given.has(word)),
    current,
  );
}

async function completeValue(
  option: Option,
  current: string,
  prefix: string,
  names: NameSource,
  words: readonly string[],
): Promise<Completion> {
  const withPrefix = (candidates: readonly Candidate[]): Completion =>
    filtered(
      candidates.map((one) => ({ ...one, word: prefix + one.word })),
      prefix + current,
    );
  if (option.argChoices) return withPrefix(option.argChoices.map((word) => ({ word })));
  const kind = namesOfOption[option.long ?? ''];
  if (kind === 'profile' || kind === 'security-group') return listOf(await names(kind, words), current, prefix);
  if (kind) return withPrefix(await names(kind, words));
  return { candidates: [], wantsFiles: fileOptions.has(option.long ?? '') };
}

/** Names with commas between them: the last is the one that is typed. */
function listOf(candidates: readonly Candidate[], current: string, prefix: string): Completion {
  const before = current.split(',').slice(0, -1);
  const start = `${prefix}${before.map((name) => `${name},`).join('')}`;
  return filtered(
    candidates.filter(({ word }) => !before.includes(word)).map((one) => ({ ...one, word: start + one.word })),
    prefix + current,
  );
}

/** Nouns of the command line whose fields `set` changes, as the contract calls them. */
const changedNouns: Readonly<Record<string, ChangeableNoun>> = {
  vm: 'vm',
  network: 'network',
  'security-group': 'securityGroup',
  node: 'node',
  profile: 'profile',
  group: 'group',
  'instance-type': 'instanceType',
  template: 'template',
};

/** Fields that `set` can change, one level at a time. */
async function changeCandidates(noun: string, current: string): Promise<Candidate[]> {
  if (current.includes('=')) return [];
  const [{ updateSchema }, { fieldNamesAt }] = await Promise.all([import('./set.ts'), import('./schema-fields.ts')]);
  const changed = changedNouns[noun];
  if (changed === undefined) return [];
  const parts = current.split('.').slice(0, -1);
  const path = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  const schema = updateSchema(changed);
  const prefix = parts.map((part) => `${part}.`).join('');
  return fieldNamesAt(schema, ['spec', ...path]).map((name) => {
    const isRecord = fieldNamesAt(schema, ['spec', ...path, name]).length > 0;
    return { word: `${prefix}${name}${isRecord ? '.' : '='}` };
  });
}

function optionOf(verb: Command, word: string): Option | undefined {
  const flag = word.startsWith('--') ? (word.split('=')[0] ?? word) : word.slice(0, 2);
  return verb.options.find((option) => option.long === flag || option.short === flag);
}

function hasValue(word: string): boolean {
  return word.startsWith('--') ? word.includes('=') : word.length > 2;
}

function filtered(candidates: readonly Candidate[], current: string): Completion {
  return { candidates: candidates.filter(({ word }) => word.startsWith(current)), wantsFiles: false };
}

/** What the value of a global option is, when the value comes next. */
function valueOfGlobal(flag: string | undefined): 'format' | 'context' | 'file' | 'text' | null {
  switch (flag) {
    case '-o':
    case '--output':
      return 'format';
    case '--context':
      return 'context';
    case '--socket':
    case '--ca':
    case '--token-file':
      return 'file';
    case '-p':
    case '--project':
    case '--server':
    case '--token':
      return 'text';
    default:
      return null;
  }
}

function globalOptions(current: string): Candidate[] {
  return [
    '--project',
    '--context',
    '--socket',
    '--server',
    '--token',
    '--token-file',
    '--ca',
    '--output',
    '--quiet',
    '--version',
    '--help',
  ]
    .filter((word) => word.startsWith(current))
    .map((word) => ({ word }));
}

/** How long the daemon may take to give names, milliseconds. */
const daemonTimeoutMs = 800;

/** Names from the daemon that the command line itself would talk to, or none. */
export async function namesFromDaemon(kind: NamedKind, words: readonly string[]): Promise<Candidate[]> {
  if (kind === 'context') {
    const { configPath, readConfig } = await import('./connect/config.ts');
    return Object.keys((await readConfig(configPath())).config.contexts).map((word) => ({ word }));
  }
  const { openSession } = await import('./connect/session.ts');
  const session = await openSession({ ...connectionOptions(words), quiet: true });
  const { client, project } = session;
  const options = { timeoutMs: daemonTimeoutMs };
  const query = { limit: 500, project };
  try {
    switch (kind) {
      case 'vm':
        return (await client.vm.list({ query }, options)).items.map((vm) => ({ word: vm.name, what: vm.status.state }));
      case 'snapshot': {
        // lodge snapshot VERB VM …: the VM stands before.
        const vm = vmBefore(words);
        if (vm === null) return [];
        const { items } = await client.snapshot.list({ params: { vm }, query }, options);
        return items.map((one) => ({ word: one.name, what: one.spec.description || one.status.state }));
      }
      case 'template':
        return (await client.template.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.spec.description || one.status.state,
        }));
      case 'group':
        return (await client.group.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.status.state,
        }));
      case 'profile':
        return (await client.profile.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.spec.description,
        }));
      case 'instance-type': {
        // Those of the project default are there for all.
        const projects = [...new Set([project, 'default'])];
        const pages = await Promise.all(
          projects.map((one) => client.instanceType.list({ query: { ...query, project: one } }, options)),
        );
        return pages.flatMap(({ items }) => items).map(({ name, spec }) => ({ word: name, what: sizeText(spec) }));
      }
      case 'image':
        return (await client.image.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.status.state,
        }));
      case 'volume':
        return (await client.volume.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.status.state,
        }));
      case 'security-group':
        return (await client.securityGroup.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.spec.description,
        }));
      case 'address-set':
        return (await client.addressSet.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.spec.description,
        }));
      case 'network':
        return (await client.network.list({ query }, options)).items.map((one) => ({
          word: one.name,
          what: one.status.state,
        }));
      case 'node':
        return (await client.node.list({ query: { limit: 500 } }, options)).items.map((one) => ({
          word: one.name,
          what: one.status.state,
        }));
      case 'token':
        return (await client.token.list({}, options)).items.map((one) => ({ word: one.name, what: one.role }));
      case 'task':
        return (await client.task.list({ query: { limit: 50, sort: '-createdAt' } }, options)).items.map((one) => ({
          word: one.id,
          what: `${one.type} ${one.target.name}: ${one.state}`,
        }));
    }
  } finally {
    session.close();
  }
}

/** The VM that stands before the name of its snapshot. */
function vmBefore(words: readonly string[]): string | null {
  const at = words.findIndex((word) => word === 'snapshot' || word === 'snapshots');
  const operands = words.slice(at + 1, -1).filter((word) => !word.startsWith('-'));
  return operands[1] ?? null;
}

/** The connection that the words on the line choose. */
function connectionOptions(words: readonly string[]): Record<string, string> {
  const options: Record<string, string> = {};
  const keys: Readonly<Record<string, string>> = {
    '-p': 'project',
    '--project': 'project',
    '--context': 'context',
    '--socket': 'socket',
    '--server': 'server',
    '--token-file': 'tokenFile',
    '--ca': 'ca',
  };
  for (const [index, word] of words.slice(0, -1).entries()) {
    const at = word.indexOf('=');
    const key = keys[at === -1 ? word : word.slice(0, at)];
    const value = at === -1 ? words[index + 1] : word.slice(at + 1);
    if (key !== undefined && value !== undefined) options[key] = value;
  }
  return options;
}

/** Prints the candidates for a shell. */
export async function printCandidates(words: readonly string[]): Promise<void> {
  try {
    const quiet: NameSource = (kind, line) => namesFromDaemon(kind, line).catch(() => []);
    const { candidates, wantsFiles } = await complete(words, quiet);
    for (const { word, what } of candidates)
      process.stdout.write(what === undefined ? `${word}\n` : `${word}\t${what.replaceAll(/\p{Cc}/gu, ' ')}\n`);
    if (wantsFiles) process.stdout.write(':files\n');
  } catch {
    // No candidates: the shell beeps.
  }
}
