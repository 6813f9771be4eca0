// lodge vm cp: files into a guest and out of it, through the guest agent; folders are copy-folder.ts's. A file that
// arrives here is written beside its place and moved there when it is whole. One that is made in a guest gets the
// permissions it has here before anything is in it, as far as the guest has a shell.
import { open, rename, rm, stat } from 'node:fs/promises';
import { createReadStream, type Stats } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { formatBytes } from '../../lib/quantity.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { describeBytes, ProgressBoard, RateMeter } from '../output/progress.ts';
import { fetchVms } from './view.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import { usageError } from '../usage-error.ts';
import { copyFolderIn, copyFolderOut, type CopyProgress } from './copy-folder.ts';
import { runScript } from './guest-shell.ts';

/** One end of a copy: a path here, or a path in a VM. */
export type Place = { vm: string; path: string } | { vm: null; path: string };

/** Reads "web1:/etc/hosts" as a path in a VM, everything else as a path here ("./a:b" too). */
export function parsePlace(text: string): Place {
  const match = /^([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?):(.*)$/.exec(text);
  const [, vm, path] = match ?? [];
  if (vm === undefined || path === undefined) return { vm: null, path: text };
  if (!path.startsWith('/')) {
    throw usageError(`${JSON.stringify(text)} is not the path of a file in a VM`, {
      hint: `Paths in a guest are absolute: ${vm}:/root/${path}. For a file here whose name has a colon, write ./${text}.`,
    });
  }
  return { vm, path };
}

export interface Copy {
  from: Place;
  /** Where a file goes. */
  to: Place;
  /** What was given as the target, which a folder is put into or becomes. */
  folder: Place;
}

/** Works out what to copy where. Exactly one side is in a VM; several files need a folder (a "/" at the end). */
export function planCopies(sources: readonly string[], target: string): Copy[] {
  const to = parsePlace(target);
  const copies = sources.map((source) => ({ from: parsePlace(source), to }));
  if (copies.some(({ from }) => (from.vm === null) === (to.vm === null))) {
    throw usageError('one side of a copy is a file here, the other a file in a VM', {
      hint: 'Write lodge vm cp FILE web1:/path, or lodge vm cp web1:/path FILE.',
    });
  }
  const isFolder = to.path.endsWith('/');
  if (copies.length > 1 && !isFolder) {
    throw usageError(`several files can not become one: ${target} is no folder`, {
      hint: `Write ${target}/ for a folder.`,
    });
  }
  return copies.map(({ from }) => {
    if (!isFolder) return { from, to, folder: to };
    const name = from.vm === null ? basename(from.path) : posix.basename(from.path);
    const path = to.vm === null ? join(to.path, name) : posix.join(to.path, name);
    return { from, to: { ...to, path }, folder: to };
  });
}

const copyWhole = 'Copy it with all that is in it: lodge vm cp -r';

export interface CopyOptions {
  recursive?: boolean;
}

export async function copyFiles(session: Session, options: CopyOptions, words: readonly string[]): Promise<void> {
  const target = words.at(-1);
  if (words.length < 2 || target === undefined) {
    throw usageError('a copy needs a source and a target', {
      hint: 'Write lodge vm cp FILE web1:/path, or lodge vm cp web1:/path FILE.',
    });
  }
  const isRecursive = options.recursive === true;
  for (const { from, to, folder } of planCopies(words.slice(0, -1), target)) {
    if (to.vm !== null) {
      const facts = from.path === '-' ? null : await stat(from.path).catch(() => null);
      if (from.path !== '-' && facts === null) throw usageError(`the file ${from.path} does not exist`);
      if (facts?.isDirectory() !== true) await copyIn(session, from.path, facts, to.vm, to.path);
      else if (isRecursive) await copyFolder(session, from, folder);
      else {
        throw usageError(`${from.path} is a folder`, { hint: `${copyWhole} ${from.path} ${target}` });
      }
    } else if (from.vm !== null) {
      const isFolder = isRecursive && (await isGuestFolder(session, from.vm, from.path));
      if (isFolder) await copyFolder(session, from, folder);
      else await copyOut(session, from.vm, from.path, await finalPath(to.path, from.path));
    }
  }
}

async function isGuestFolder(session: Session, vm: string, path: string): Promise<boolean> {
  const test = await withSuggestion(session, vm, fetchVms, () => runScript(session, vm, '[ -d "$1" ]', [path]));
  return test.code === 0;
}

async function copyFolder(session: Session, from: Place, to: Place): Promise<void> {
  const title = to.vm === null ? `copy from ${from.vm} to ${to.path}` : `copy ${from.path} to ${to.vm}`;
  const { result } = await withProgress(session, title, undefined, async (progress, signal) => {
    if (to.vm === null) {
      if (to.path === '-')
        throw usageError('a folder can not be written to standard output', { hint: 'Give a folder.' });
      return copyFolderOut(session, from.vm ?? '', from.path, to.path, progress, signal);
    }
    const { vm, path } = to;
    return withSuggestion(session, vm, fetchVms, () => copyFolderIn(session, from.path, vm, path, progress, signal));
  });
  const place = (vm: string | null, path: string): string => (vm === null ? path : `${vm}:${path}`);
  const what = `${result.files} ${result.files === 1 ? 'file' : 'files'}, ${formatBytes(result.bytes)}`;
  session.terminal.note(`${place(from.vm, from.path)} → ${place(to.vm, result.target)} (${what})`);
  if (result.skipped.length > 0) {
    const [first] = result.skipped;
    const more = result.skipped.length > 1 ? ` and ${result.skipped.length - 1} more` : '';
    session.terminal.note(
      `not copied, since they are neither files, folders nor links: ${escapeControls(first ?? '')}${more}`,
    );
  }
}

async function finalPath(target: string, source: string): Promise<string> {
  if (target === '-') return target;
  const facts = await stat(target).catch(() => null);
  return facts?.isDirectory() === true ? join(target, posix.basename(source)) : target;
}

// Prints the path to write to: a folder takes the file by its name. A new file is made with the permissions it is to have.
const prepareFile = `
t=$1
if [ -d "$t" ]; then t=\${t%/}/$2; fi
[ -e "$t" ] || { (umask 077; : >"$t") && chmod "$3" "$t"; } || exit 1
printf %s "$t"
`;

async function copyIn(
  session: Session,
  path: string,
  facts: Stats | null,
  vm: string,
  guestPath: string,
): Promise<void> {
  const content: AsyncIterable<Uint8Array> = path === '-' ? process.stdin : createReadStream(path);
  let to = guestPath;
  const { bytes } = await withProgress(session, `copy ${path} to ${vm}`, facts?.size, (progress, signal) =>
    withSuggestion(session, vm, fetchVms, async () => {
      const mode = ((facts?.mode ?? 0o644) & 0o777).toString(8);
      const name = path === '-' ? '' : basename(path);
      // A guest without a shell, or whose agent runs nothing, still takes files; what else is wrong the writing tells.
      const prepared = await runScript(session, vm, prepareFile, [guestPath, name, mode], { signal }).catch(() => null);
      signal.throwIfAborted();
      if (prepared?.code === 0) to = prepared.output.toString() || to;
      await session.client.vm.writeFile(
        { params: { vm }, query: { project: session.project, path: to }, body: counted(content, progress) },
        { signal },
      );
    }),
  );
  session.terminal.note(`${path} → ${vm}:${to} (${formatBytes(bytes)})`);
}

async function copyOut(session: Session, vm: string, guestPath: string, path: string): Promise<void> {
  const temporary = `${path}.${process.pid}.part`;
  const { bytes } = await withProgress(session, `copy from ${vm} to ${path}`, undefined, async (progress, signal) => {
    const answer = await withSuggestion(session, vm, fetchVms, () =>
      session.client.vm.readFile({ params: { vm }, query: { project: session.project, path: guestPath } }, { signal }),
    ).catch((cause: unknown) => {
      // The words are strerror(3)'s in a guest with the C locale, which agents run in.
      if (!(cause instanceof LodgeError) || !cause.message.endsWith('Is a directory')) throw cause;
      throw usageError(`${vm}:${guestPath} is a folder`, { hint: `${copyWhole} ${vm}:${guestPath} ${path}`, cause });
    });
    if (path === '-') {
      for await (const chunk of counted(answer, progress)) session.terminal.raw(chunk);
      return;
    }
    const file = await open(temporary, 'w').catch((cause: unknown) => {
      throw usageError(
        `${path} can not be written: ${cause instanceof Error && 'code' in cause ? String(cause.code) : ''}`,
        { cause },
      );
    });
    try {
      // appendFile writes all of a chunk, or throws.
      for await (const chunk of counted(answer, progress)) await file.appendFile(chunk);
      await file.close();
      await rename(temporary, path);
    } finally {
      await file.close().catch(() => undefined);
      await rm(temporary, { force: true });
    }
  });
  if (path !== '-') session.terminal.note(`${vm}:${guestPath} → ${path} (${formatBytes(bytes)})`);
}

async function* counted(source: AsyncIterable<Uint8Array>, progress: CopyProgress): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    yield chunk;
    progress.count(chunk.length);
  }
}

/** Runs a transfer with its progress on the screen; gives how many bytes there were. */
async function withProgress<Result>(
  session: Session,
  title: string,
  totalBytes: number | undefined,
  body: (progress: CopyProgress, signal: AbortSignal) => Promise<Result>,
): Promise<{ bytes: number; result: Result }> {
  // Only a terminal is told how it gets on: a copy is short, and scripts want to hear of its end alone.
  const board = session.terminal.canRedraw ? new ProgressBoard(session.terminal) : null;
  const row = board?.add(title);
  const meter = new RateMeter();
  let done = 0;
  let total = totalBytes;
  let step: string | null = null;
  const show = (): void => {
    const waitingFor = step ?? describeBytes(done, total, meter.bytesPerSecond);
    if (board && row) board.update(row, { waitingFor });
  };
  const progress: CopyProgress = {
    count: (bytes) => {
      done += bytes;
      meter.note(done, Date.now());
      show();
    },
    expect: (bytes) => {
      total = bytes;
    },
    say: (words) => {
      step = words;
      show();
    },
  };
  try {
    const result = await untilInterrupted(
      session,
      (signal) => body(progress, signal),
      () => {
        board?.close();
        return ['The copy is broken off.'];
      },
    );
    return { bytes: done, result };
  } finally {
    board?.close();
  }
}
