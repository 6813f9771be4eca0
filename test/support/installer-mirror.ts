// What Debian's installer asks a mirror for, handed on from the one that this machine's apt is configured with, for guests
// that reach nothing else. It listens on a unix socket, and by that on a port of a network namespace.
//
// A mirror that fetches what it is asked for may not have every package of the installer itself. Those that are missing are
// left out of the list that the installer sees, and what needs them too: it goes without. The list has another checksum
// then, and its signature is not Debian's: the installer is told to do without (debian-installer/allow_unauthenticated).
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { run } from '../../src/host/command.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { serveIn, type NetworkNamespace } from './namespace.ts';
import { temporaryFolder } from './temporary.ts';

export interface InstallerMirror {
  /** On 127.0.0.1 of the namespace. */
  port: number;
  /** What was asked for: `200 /dists/…`. */
  answered: string[];
  /** Packages of the installer that the mirror doesn't have. */
  missing: readonly string[];
}

export interface InstallerMirrorOptions {
  /** Of the archive, without a slash at its end. */
  url: string;
  suite: string;
  /** Packages that the installer has in its initial RAM disk, in whichever version. */
  installed: ReadonlySet<string>;
  /** Packages that it is told to take besides those it takes by itself. */
  wanted: readonly string[];
}

/** Folder of the archive on this mirror. */
export const mirrorFolder = '/debian';
const fetchMs = 300_000;
const atOnce = 4;
/** Priorities of packages that the installer takes by itself. */
const taken = new Set(['required', 'important', 'standard']);

/** In the namespace: hands each connection on to the socket. */
const forwarder = `
const { connect, createServer } = await import('node:net');
createServer((one) => {
  const other = connect(process.argv[1]);
  one.pipe(other).pipe(one);
  one.on('error', () => other.destroy());
  other.on('error', () => one.destroy());
}).listen(0, '127.0.0.1', function () { console.log(this.address().port); });`;

/** Serves a release; it ends with the test. */
export async function serveInstallerMirror(
  test: Cleanup,
  namespace: NetworkNamespace,
  options: InstallerMirrorOptions,
): Promise<InstallerMirror> {
  const { url, suite, installed } = options;
  const list = 'main/debian-installer/binary-amd64/Packages';
  const all = paragraphs(await unpack(test, await get(`${url}/dists/${suite}/${list}.xz`)));
  const missing = await missingOf(all, options);
  // It does without a newer one of what it has.
  const lost = missing.filter((name) => !installed.has(name));
  const there = all.filter(
    (one) => !missing.includes(nameOf(one)) && !dependsOf(one).some((name) => lost.includes(name)),
  );
  const shown = Buffer.from(`${there.join('\n\n')}\n`);
  const release = replaceInRelease((await get(`${url}/dists/${suite}/Release`)).toString(), list, shown);

  const answered: string[] = [];
  const answer = (response: ServerResponse, path: string, status: number, body: Buffer): void => {
    answered.push(`${status} ${path}`);
    response.writeHead(status, { 'content-length': body.length, 'content-type': 'application/octet-stream' });
    response.end(body);
  };
  const server = createServer((request, response) => {
    const path = (request.url ?? '/').slice(mirrorFolder.length);
    const own = path.replace(`/dists/${suite}/`, '');
    if (own === 'Release') return answer(response, path, 200, Buffer.from(release));
    if (own === list) return answer(response, path, 200, shown);
    // Other forms of the same would say something else.
    if (own === 'InRelease' || own === 'Release.gpg' || own.startsWith(list))
      return answer(response, path, 404, Buffer.alloc(0));
    get(`${url}${path}`).then(
      (body) => answer(response, path, 200, body),
      () => answer(response, path, 404, Buffer.alloc(0)),
    );
  });
  const socketPath = join(await temporaryFolder(test), 'mirror.sock');
  server.listen(socketPath);
  await once(server, 'listening');
  atEnd(test, async () => {
    server.closeAllConnections();
    const closed = once(server, 'close');
    server.close();
    await closed;
  });
  const inside = serveIn(test, namespace, forwarder, socketPath);
  const lines = createInterface({ input: inside.stdout });
  const [port] = (await once(lines, 'line', { signal: AbortSignal.timeout(10_000) })) as [string];
  return { port: Number(port), answered, missing };
}

/** Names of the packages that the installer would take and the mirror doesn't have. */
async function missingOf(all: readonly string[], { url, wanted }: InstallerMirrorOptions): Promise<string[]> {
  const byName = new Map(all.map((one) => [nameOf(one), one]));
  const standard = all.filter((one) => taken.has(fieldOf(one, 'Priority') ?? '')).map((one) => nameOf(one));
  const names = new Set([...standard, ...wanted]);
  for (const name of names) for (const other of dependsOf(byName.get(name) ?? '')) names.add(other);
  const missing: string[] = [];
  const left = all.filter((one) => names.has(nameOf(one))).values();
  const look = async (): Promise<void> => {
    for (const one of left) if (!(await exists(`${url}/${fieldOf(one, 'Filename')}`))) missing.push(nameOf(one));
  };
  await Promise.all(Array.from({ length: atOnce }, look));
  return missing;
}

/** Some mirrors want a plus sign in a name escaped. */
function escaped(url: string): string {
  return url.replaceAll('+', '%2b');
}

/** Reads what a mirror has. Throws where it hasn't. */
export async function get(url: string): Promise<Buffer> {
  const response = await fetch(escaped(url), { signal: AbortSignal.timeout(fetchMs) });
  if (!response.ok) throw new Error(`${url} was answered with ${response.status}`);
  return Buffer.from(await response.arrayBuffer());
}

/** Whether a mirror has it. */
export async function exists(url: string): Promise<boolean> {
  const response = await fetch(escaped(url), { method: 'HEAD', signal: AbortSignal.timeout(fetchMs) });
  return response.ok;
}

async function unpack(test: Cleanup, packed: Buffer): Promise<string> {
  const path = join(await temporaryFolder(test), 'Packages.xz');
  await writeFile(path, packed);
  return (await run(['xz', '-dc', path])).stdout;
}

function paragraphs(text: string): string[] {
  return text.split(/\n\n+/).filter((one) => one.trim() !== '');
}

function nameOf(paragraph: string): string {
  return fieldOf(paragraph, 'Package') ?? '';
}

function dependsOf(paragraph: string): string[] {
  const depends = fieldOf(paragraph, 'Depends') ?? '';
  return depends.split(',').flatMap((one) => one.trim().split(' ')[0] || []);
}

function fieldOf(paragraph: string, name: string): string | undefined {
  return new RegExp(`^${name}: (.*)$`, 'm').exec(paragraph)?.[1];
}

/** Release with the checksum of a list that is another now, and without other forms of that list. */
function replaceInRelease(release: string, list: string, content: Buffer): string {
  const hash = createHash('sha256').update(content).digest('hex');
  const lines = release.split('\n').filter((line) => !line.includes(` ${list}`));
  return lines.toSpliced(lines.indexOf('SHA256:') + 1, 0, ` ${hash} ${content.length} ${list}`).join('\n');
}
