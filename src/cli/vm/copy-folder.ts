// Whole folders for lodge vm cp -r. Where the guest has tar, a folder travels as one archive, compressed where the guest
// has gzip as well, since the way through an agent is slow; elsewhere its files travel one by one. The archive lies in a
// file in the guest for as long as that takes, readable by root alone, and is removed also when the copy fails.
//
//   in:   look through the folder → prepare the target → send → unpack (or: send each file, then permissions and links)
//   out:  look at the folder → pack → fetch and write → (or: list, fetch each file)
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, posix, resolve } from 'node:path';
import { createGunzip, createGzip } from 'node:zlib';
import { pipeline, Readable } from 'node:stream';
import { LodgeError } from '../../api/errors.ts';
import { shellWord } from '../../lib/shell-word.ts';
import { readTar, TarError, writeTar, type TarEntry } from '../../lib/tar.ts';
import type { Session } from '../connect/session.ts';
import { usageError } from '../usage-error.ts';
import { runInGuest, runScript, scriptInputBytes, type ScriptResult } from './guest-shell.ts';
import { readTree, TreeWriter } from './local-tree.ts';

/** Packing and unpacking a large folder in an emulated guest. Seconds. */
const packTimeoutS = 3600;

/** What goes on, for whoever shows it. */
export interface CopyProgress {
  /** Counts bytes of content as they pass. */
  count(bytes: number): void;
  /** How many bytes of content there are in all. */
  expect(bytes: number): void;
  /** What is done where no bytes pass; null when they pass again. */
  say(step: string | null): void;
}

export interface CopiedFolder {
  /** Where it came to lie. */
  target: string;
  files: number;
  bytes: number;
  /** Sockets, devices and the like, which are not copied. */
  skipped: readonly string[];
}

/** Whether a path means what is in a folder, and not the folder by its name, as with cp -r. */
function meansContents(path: string): boolean {
  return /(^|\/)\.{1,2}\/*$/.test(path) || /^\/+$/.test(path);
}

function failed(vm: string, what: string, { code, complaint }: ScriptResult): LodgeError {
  const said = complaint === '' ? `it ended with code ${code}` : complaint;
  return new LodgeError('hypervisor_failed', `${what} in ${vm} failed: ${said}`, {
    hint: 'These are the guest’s own words; look there (space, permissions, a file in the way).',
  });
}

// Prints: the folder to copy into, then tar and gzip as far as the guest has them.
const prepareTarget = `
t=$1
if [ -d "$t" ] && [ -n "$2" ]; then t=\${t%/}/$2; fi
if [ -e "$t" ] && [ ! -d "$t" ]; then echo "$t is there already, and is no folder" >&2; exit 1; fi
[ -d "$t" ] || mkdir "$t" || exit 1
a=
if command -v tar >/dev/null 2>&1; then
  a=\${t%/}/.lodge-$3.tar
  (umask 077; : >"$a") || exit 1
fi
printf '%s\\n' "$t" "$a"
! command -v gzip >/dev/null 2>&1 || printf 'gzip\\n'
`;

/** Copies a folder of this machine into a guest. */
export async function copyFolderIn(
  session: Session,
  source: string,
  vm: string,
  guestPath: string,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<CopiedFolder> {
  progress.say('looking through the folder');
  const { entries, skipped } = await readTree(source);
  const name = meansContents(source) ? '' : basename(resolve(source));
  const mark = crypto.randomUUID().slice(0, 8);
  const prepared = await runScript(session, vm, prepareTarget, [guestPath, name, mark], { signal });
  if (prepared.code !== 0) throw failed(vm, `making the folder ${guestPath}`, prepared);
  const [target = '', archive = '', gzip = ''] = prepared.output.toString().split('\n');
  progress.say(null);
  const open = (path: string): AsyncIterable<Uint8Array> => counted(createReadStream(join(source, path)), progress);
  const files = entries.filter((entry) => entry.type === 'file');
  const bytes = files.reduce((sum, entry) => sum + entry.size, 0);
  progress.expect(bytes);
  try {
    if (archive === '') await sendFiles(session, vm, target, entries, open, progress, signal);
    else await sendArchive(session, vm, target, archive, gzip !== '', writeTar(entries, open), progress, signal);
  } catch (failure) {
    if (failure instanceof TarError) throw usageError(failure.message, { hint: 'Copy it when nothing writes to it.' });
    throw failure;
  }
  return { target, files: files.length, bytes, skipped };
}

async function sendArchive(
  session: Session,
  vm: string,
  target: string,
  archive: string,
  isCompressed: boolean,
  content: AsyncIterable<Uint8Array>,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<void> {
  const body = isCompressed ? compressed(content) : content;
  try {
    await session.client.vm.writeFile(
      { params: { vm }, query: { project: session.project, path: archive }, body },
      { signal },
    );
    progress.say('unpacking in the guest');
    // -o: whoever the files belonged to here is nobody there. GNU tar, busybox and bsdtar know these three.
    const script = `exec tar -x${isCompressed ? 'z' : ''} -o -f "$1" -C "$2"`;
    const unpacked = await runScript(session, vm, script, [archive, target], { timeoutS: packTimeoutS, signal });
    if (unpacked.code !== 0) throw failed(vm, 'unpacking', unpacked);
  } finally {
    await removeInGuest(session, vm, archive);
  }
}

/** Removes the archive whatever has happened; its own failure is nothing anybody could act on. */
async function removeInGuest(session: Session, vm: string, path: string): Promise<void> {
  await runScript(session, vm, 'rm -f "$1"', [path]).catch(() => undefined);
}

async function* compressed(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const gzip = createGzip();
  pipeline(content, gzip, ignoreEnd);
  yield* gzip as AsyncIterable<Uint8Array>;
}

/** For a pipeline whose end shows where its last stream is read. */
function ignoreEnd(): void {}

/** Runs many small commands of a shell in the guest, as few times as they fit into. */
async function runLines(
  session: Session,
  vm: string,
  target: string,
  lines: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  let batch = '';
  const flush = async (): Promise<void> => {
    if (batch === '') return;
    const input = `cd "$1" || exit 1\nset -e\numask 077\n${batch}`;
    const done = await runInGuest(session, vm, ['sh', '-s', target], { input, signal, timeoutS: packTimeoutS });
    if (done.code !== 0) throw failed(vm, 'making folders and links', done);
    batch = '';
  };
  for (const line of lines) {
    if (Buffer.byteLength(batch) + Buffer.byteLength(line) > scriptInputBytes) await flush();
    batch += `${line}\n`;
  }
  await flush();
}

async function sendFiles(
  session: Session,
  vm: string,
  target: string,
  entries: readonly TarEntry[],
  open: (path: string) => AsyncIterable<Uint8Array>,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<void> {
  const word = (path: string): string => shellWord(path === '' ? '.' : `./${path}`);
  const ofType = <Type extends TarEntry['type']>(type: Type): Extract<TarEntry, { type: Type }>[] =>
    entries.filter((entry): entry is Extract<TarEntry, { type: Type }> => entry.type === type);
  const mode = (entry: TarEntry): string => `chmod ${entry.mode.toString(8)} ${word(entry.path)}`;
  const folders = ofType('folder');
  const made = folders.map(({ path }) => `mkdir -p ${word(path)}`);
  await runLines(session, vm, target, made, signal);
  for (const { path } of ofType('file')) {
    progress.say(null);
    await session.client.vm.writeFile(
      {
        params: { vm },
        query: { project: session.project, path: posix.join(target, path) },
        body: open(path),
      },
      { signal },
    );
  }
  progress.say('permissions and links');
  const after = [
    ...ofType('file').map(mode),
    ...ofType('symlink').map((entry) => `ln -sfn ${shellWord(entry.target)} ${word(entry.path)}`),
    ...folders.toReversed().map(mode),
  ];
  await runLines(session, vm, target, after, signal);
}

// Prints the archive's path (nothing without tar), then whether it is compressed.
const packFolder = `
[ -d "$1" ] || { echo "$1 is no folder" >&2; exit 3; }
command -v tar >/dev/null 2>&1 || exit 0
d=/tmp
[ ! -w /var/tmp ] || d=/var/tmp
a=$d/.lodge-$2.tar
(umask 077; : >"$a") || exit 1
z=
! command -v gzip >/dev/null 2>&1 || z=z
tar -c\${z} -f "$a" -C "$1" . || { c=$?; [ $c = 1 ] || { rm -f "$a"; exit $c; }; }
printf '%s\\n' "$a" "$z"
`;

/** Copies a folder of a guest to this machine. */
export async function copyFolderOut(
  session: Session,
  vm: string,
  guestPath: string,
  to: string,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<CopiedFolder> {
  const there = await stat(to).catch(() => null);
  if (there !== null && !there.isDirectory()) throw usageError(`${to} is there already, and is no folder`);
  const target =
    there !== null && !meansContents(guestPath) ? join(to, posix.basename(posix.normalize(guestPath))) : to;
  const mark = crypto.randomUUID().slice(0, 8);
  progress.say('packing in the guest');
  const packed = await runScript(session, vm, packFolder, [guestPath, mark], { timeoutS: packTimeoutS, signal });
  if (packed.code === 3)
    throw new LodgeError('not_found', `${guestPath} in ${vm} is no folder`, { hint: 'Leave -r out to copy a file.' });
  if (packed.code !== 0) throw failed(vm, 'packing', packed);
  const [archive = '', zip = ''] = packed.output.toString().split('\n');
  progress.say(null);
  const writer = new TreeWriter(target);
  const read = async (path: string): Promise<AsyncIterable<Uint8Array>> =>
    counted(
      await session.client.vm.readFile({ params: { vm }, query: { project: session.project, path } }, { signal }),
      progress,
    );
  try {
    if (archive === '') await fetchFiles(session, vm, guestPath, writer, read, signal);
    else {
      const content = await read(archive);
      for await (const { entry, content: bytes } of readTar(zip === '' ? content : expanded(content))) {
        await writer.add(entry, bytes);
      }
    }
    await writer.finish();
  } catch (failure) {
    if (failure instanceof TarError) throw new LodgeError('hypervisor_failed', failure.message, { cause: failure });
    throw failure;
  } finally {
    if (archive !== '') await removeInGuest(session, vm, archive);
  }
  return { target, files: writer.files, bytes: writer.bytes, skipped: writer.skipped };
}

async function* expanded(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const gunzip = createGunzip();
  pipeline(content, gunzip, ignoreEnd);
  try {
    yield* gunzip as AsyncIterable<Uint8Array>;
  } catch (failure) {
    const code = failure instanceof Error && 'code' in failure ? String(failure.code) : '';
    throw code.startsWith('Z_') ? new TarError('the archive that the guest sent is broken') : failure;
  }
}

/** One kind of thing in a folder: its names, ended by zeros, and then a line of facts for each. */
const listings = {
  folder: 'find . -type d -print0; printf "\\0"; find . -type d -exec stat -c "%a %Y" {} +',
  file: 'find . -type f -print0; printf "\\0"; find . -type f -exec stat -c "%a %Y %s" {} +',
  symlink: 'find . -type l -print0; printf "\\0"; find . -type l -exec readlink {} \\;',
} as const;

async function fetchFiles(
  session: Session,
  vm: string,
  guestPath: string,
  writer: TreeWriter,
  read: (path: string) => Promise<AsyncIterable<Uint8Array>>,
  signal: AbortSignal,
): Promise<void> {
  const entries: TarEntry[] = [];
  for (const type of ['folder', 'file', 'symlink'] as const) {
    const script = `cd "$1" || exit 1; ${listings[type]}`;
    const listed = await runScript(session, vm, script, [guestPath], { timeoutS: packTimeoutS, signal });
    if (listed.code !== 0) throw failed(vm, 'listing the folder', listed);
    entries.push(...parseListing(type, listed.output));
  }
  const nothing = Readable.from([]);
  for (const entry of entries) {
    const content = entry.type === 'file' ? await read(posix.join(guestPath, entry.path)) : nothing;
    await writer.add(entry, content);
  }
}

/** What {@link listings} print. Throws {@link TarError} when names and facts don't fit together. */
export function parseListing(type: 'folder' | 'file' | 'symlink', output: Buffer): TarEntry[] {
  const text = output.toString();
  const end = text.startsWith('\0') ? 0 : text.indexOf('\0\0') + 1;
  const paths = text
    .slice(0, end)
    .split('\0')
    .filter((path) => path !== '');
  const facts = text
    .slice(end + 1)
    .split('\n')
    .filter((line) => line !== '');
  if (paths.length !== facts.length) throw new TarError('the folder in the guest changed while it was listed');
  return paths.map((name, index): TarEntry => {
    const path = name.replace(/^\.\/?/, '');
    const line = facts[index] ?? '';
    if (type === 'symlink') return { type, path, mode: 0o777, modifiedAtS: 0, target: line };
    const [mode = '', modified = '', size = ''] = line.split(' ');
    const common = { path, mode: Number.parseInt(mode, 8) & 0o7777, modifiedAtS: Number(modified) };
    return type === 'folder' ? { ...common, type } : { ...common, type, size: Number(size) };
  });
}

async function* counted(source: AsyncIterable<Uint8Array>, progress: CopyProgress): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    yield chunk;
    progress.count(chunk.length);
  }
}
