// lodge vm cp: files into a guest and out of it, through the guest agent. A file that arrives is written beside its
// place and moved there when it is whole.
import { open, rename, rm, stat } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { formatBytes } from '../../lib/quantity.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { describeBytes, ProgressBoard, RateMeter } from '../output/progress.ts';
import { fetchVms } from './view.ts';
import { usageError } from '../usage-error.ts';

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
  to: Place;
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
    if (!isFolder) return { from, to };
    const name = from.vm === null ? basename(from.path) : posix.basename(from.path);
    return { from, to: { ...to, path: to.vm === null ? join(to.path, name) : posix.join(to.path, name) } };
  });
}

export async function copyFiles(session: Session, words: readonly string[]): Promise<void> {
  const target = words.at(-1);
  if (words.length < 2 || target === undefined) {
    throw usageError('a copy needs a source and a target', {
      hint: 'Write lodge vm cp FILE web1:/path, or lodge vm cp web1:/path FILE.',
    });
  }
  for (const { from, to } of planCopies(words.slice(0, -1), target)) {
    if (to.vm !== null) await copyIn(session, from.path, to.vm, to.path);
    else if (from.vm !== null) await copyOut(session, from.vm, from.path, await finalPath(to.path, from.path));
  }
}

async function finalPath(target: string, source: string): Promise<string> {
  if (target === '-') return target;
  const facts = await stat(target).catch(() => null);
  return facts?.isDirectory() === true ? join(target, posix.basename(source)) : target;
}

async function copyIn(session: Session, path: string, vm: string, guestPath: string): Promise<void> {
  const facts = path === '-' ? null : await stat(path).catch(() => null);
  if (path !== '-' && facts === null) throw usageError(`the file ${path} does not exist`);
  if (facts?.isDirectory() === true) {
    throw usageError(`${path} is a folder; only files are copied`, {
      hint: `Pack it: tar -C ${path} -c . | lodge vm cp - ${vm}:/tmp/files.tar`,
    });
  }
  const content: AsyncIterable<Uint8Array> = path === '-' ? process.stdin : createReadStream(path);
  const bytes = await withProgress(session, `copy ${path} to ${vm}`, facts?.size, (count, signal) =>
    withSuggestion(session, vm, fetchVms, () =>
      session.client.vm.writeFile(
        { params: { vm }, query: { project: session.project, path: guestPath }, body: counted(content, count) },
        { signal },
      ),
    ),
  );
  session.terminal.note(`${path} → ${vm}:${guestPath} (${formatBytes(bytes)})`);
}

async function copyOut(session: Session, vm: string, guestPath: string, path: string): Promise<void> {
  const temporary = `${path}.${process.pid}.part`;
  const bytes = await withProgress(session, `copy from ${vm} to ${path}`, undefined, async (count, signal) => {
    const answer = await withSuggestion(session, vm, fetchVms, () =>
      session.client.vm.readFile({ params: { vm }, query: { project: session.project, path: guestPath } }, { signal }),
    );
    if (path === '-') {
      for await (const chunk of counted(answer, count)) session.terminal.raw(chunk);
      return;
    }
    const file = await open(temporary, 'w').catch((cause: unknown) => {
      throw usageError(
        `${path} can not be written: ${cause instanceof Error && 'code' in cause ? String(cause.code) : ''}`,
        { cause },
      );
    });
    try {
      for await (const chunk of counted(answer, count)) await file.write(chunk);
      await file.close();
      await rename(temporary, path);
    } finally {
      await file.close().catch(() => undefined);
      await rm(temporary, { force: true });
    }
  });
  if (path !== '-') session.terminal.note(`${vm}:${guestPath} → ${path} (${formatBytes(bytes)})`);
}

async function* counted(
  source: AsyncIterable<Uint8Array>,
  count: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    yield chunk;
    count(chunk.length);
  }
}

/** Runs a transfer with its progress on the screen; gives how many bytes there were. */
async function withProgress(
  session: Session,
  title: string,
  totalBytes: number | undefined,
  body: (count: (bytes: number) => void, signal: AbortSignal) => Promise<void>,
): Promise<number> {
  // Only a terminal is told how it gets on: a copy is short, and scripts want to hear of its end alone.
  const board = session.terminal.canRedraw ? new ProgressBoard(session.terminal) : null;
  const row = board?.add(title);
  const meter = new RateMeter();
  let done = 0;
  const count = (bytes: number): void => {
    done += bytes;
    meter.note(done, Date.now());
    if (board && row) board.update(row, { waitingFor: describeBytes(done, totalBytes, meter.bytesPerSecond) });
  };
  try {
    await untilInterrupted(
      session,
      (signal) => body(count, signal),
      () => ['The copy is broken off.'],
    );
  } finally {
    board?.close();
  }
  return done;
}
