// Asks before something is lost. Without a terminal nobody can be asked: then --yes is needed.
import { createInterface } from 'node:readline/promises';
import type { Session } from './connect/session.ts';
import { exitCodes } from './exit-code.ts';
import { AlreadyPrinted, Interrupted } from './output/print-error.ts';
import { usageError } from './usage-error.ts';

/** Asks a question whose answer is yes or no. Throws when it is not yes. */
export async function confirm(
  session: Pick<Session, 'terminal'>,
  question: string,
  isConfirmed: boolean,
): Promise<void> {
  if (isConfirmed) return;
  if (!session.terminal.canAsk) {
    throw usageError(`${question} Nobody can be asked here.`, {
      hint: 'Give --yes to do it without a question.',
    });
  }
  const answer = await ask(`${question} [y/N] `);
  if (!/^y(es)?$/i.test(answer.trim())) {
    session.terminal.note('Nothing was changed.');
    throw new AlreadyPrinted(exitCodes.failed.code);
  }
}

/** Asks for a line of text on the terminal. */
export async function ask(question: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const closed = new Promise<never>((_resolve, reject) => {
    terminal.once('close', () => reject(new Interrupted()));
    terminal.once('SIGINT', () => {
      process.stderr.write('\n');
      terminal.close();
    });
  });
  try {
    return await Promise.race([terminal.question(question), closed]);
  } finally {
    closed.catch(() => undefined);
    terminal.close();
  }
}

/** Asks for a secret: what is typed is not shown. */
export async function askSecret(question: string): Promise<string> {
  const { stdin, stderr } = process;
  if (!stdin.isTTY) {
    throw usageError('a secret is needed, and there is no terminal to ask for it', {
      hint: 'Give it through a pipe with the option that ends in -stdin.',
    });
  }
  stderr.write(question);
  stdin.setRawMode(true);
  stdin.setEncoding('utf8');
  let secret = '';
  try {
    for await (const chunk of stdin) {
      for (const character of String(chunk)) {
        if (character === '\r' || character === '\n') return secret;
        if (character === '\u0003' || character === '\u0004') throw new Interrupted();
        if (character === '\u007f' || character === '\b') secret = Array.from(secret).slice(0, -1).join('');
        else if (character >= ' ') secret += character;
      }
    }
    return secret;
  } finally {
    stdin.setRawMode(false);
    stderr.write('\n');
  }
}

/** All of stdin as text, at most `limit` characters. */
export async function readStdin(limit: number, what: string): Promise<string> {
  let text = '';
  process.stdin.setEncoding('utf8');
  for await (const chunk of process.stdin) {
    text += String(chunk);
    if (text.length > limit) {
      throw usageError(`${what} on stdin is longer than ${limit} characters`);
    }
  }
  return text;
}
