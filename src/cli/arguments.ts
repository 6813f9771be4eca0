// Reads the beginning of a command line: which noun, which verb, and what belongs to them. Options that every verb
// takes may stand anywhere; here they are moved behind the verb, which then reads them with its own.
import type { Command, Option } from 'commander';

/** Options that may stand before the noun or the verb, and whether a value follows. */
const globalFlags: Readonly<Record<string, boolean>> = {
  '-o': true,
  '--output': true,
  '-p': true,
  '--project': true,
  '--context': true,
  '--socket': true,
  '--server': true,
  '--token': true,
  '--token-file': true,
  '--ca': true,
  '-q': false,
  '--quiet': false,
};

export interface NextWord {
  /** Global options that stood before the word. */
  moved: string[];
  /** The first word that is not an option, or null. */
  word: string | null;
  /** Everything behind the word; without a word, what could not be read: an option that is not global. */
  rest: string[];
}

/** Takes the next word of a command line. */
export function nextWord(words: readonly string[]): NextWord {
  const moved: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? '';
    if (!word.startsWith('-') || word === '-') return { moved, word, rest: words.slice(index + 1) };
    const flag = word.startsWith('--') ? (word.split('=')[0] ?? word) : word.slice(0, 2);
    const takesValue = globalFlags[flag];
    if (takesValue === undefined) return { moved, word: null, rest: words.slice(index) };
    moved.push(word);
    const hasValue = word.startsWith('--') ? word.includes('=') : word.length > 2;
    if (takesValue && !hasValue && index + 1 < words.length) {
      index += 1;
      moved.push(words[index] ?? '');
    }
  }
  return { moved, word: null, rest: [] };
}

/**
 * Puts "--" before the command line that a verb takes for somebody else (`vm exec web1 ls -la`), so that its options are
 * not read as ours. Options of the verb itself may stand before it.
 */
export function separateCommand(
  verb: Pick<Command, 'options' | 'registeredArguments'>,
  words: readonly string[],
): string[] {
  const own = verb.registeredArguments.length - 1;
  let operands = 0;
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? '';
    if (word === '--') return [...words];
    if (!word.startsWith('-') || word === '-') {
      if (operands === own) return [...words.slice(0, index), '--', ...words.slice(index)];
      operands += 1;
      continue;
    }
    const option = findOption(verb.options, word);
    if (option === undefined) {
      if (operands < own || word === '--help' || word === '-h') return [...words];
      return [...words.slice(0, index), '--', ...words.slice(index)];
    }
    const hasValue = word.startsWith('--') ? word.includes('=') : word.length > 2;
    if (option.required && !hasValue) index += 1;
  }
  return [...words];
}

function findOption(options: readonly Option[], word: string): Option | undefined {
  const flag = word.startsWith('--') ? (word.split('=')[0] ?? word) : word.slice(0, 2);
  return options.find((option) => option.long === flag || option.short === flag);
}
