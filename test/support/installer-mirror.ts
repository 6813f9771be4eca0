// What Debian's installer asks a mirror for, handed on from the one that this machine's apt is configured with, for guests
// that reach nothing else. It listens on a unix socket, and by that on a port of a network namespace.
//
// A mirror that fetches what it is asked for may not have every package of the installer. Those that it lacks are left out
// of the list that the installer sees, and so is what can't do without them: the installer goes without. The list has
// another checksum then, and no signature of Debian's: the installer is told so (debian-installer/allow_unauthenticated).
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { atEnd, type Cleanup } from './cleanup.ts';
import { type InstallerArchive, type InstallerPackage } from './installer-archive.ts';
import { serveIn, type NetworkNamespace } from './namespace.ts';
import { temporaryFolder } from './temporary.ts';

export interface InstallerMirror {
  /** On 127.0.0.1 of the namespace. */
  port: number;
  /** What was asked for: `200 /dists/…`. */
  answered: string[];
  /** Packages that the installer would take, and the mirror doesn't have. */
  missing: readonly string[];
  /** Packages that the installer goes without for want of them. */
  leftOut: readonly string[];
}

export interface InstallerMirrorOptions {
  /** Of the archive, without a slash at its end. */
  url: string;
  suite: string;
  archive: InstallerArchive;
  /** Packages that the installer has in its initial RAM disk, in whichever version. */
  installed: readonly InstallerPackage[];
}

/** Folder of the archive on this mirror. */
export const mirrorFolder = '/debian';
const fetchMs = 300_000;

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
  const { url, suite, archive, installed } = options;
  const list = 'main/debian-installer/binary-amd64/Packages';
  // Modules of kernels are in the initial RAM disk, and whatever else says that it stands for a package.
  const provided = new Set(installed.flatMap(({ provides }) => provides));
  const all = archive.packages.filter(({ name, kernelVersion }) => kernelVersion === null && !provided.has(name));
  const taken = takenFrom(all, options);
  const fetched = await archive.download(taken);
  const missing = taken.filter((name) => !fetched.has(name));
  const there = complete(
    all.filter(({ name }) => !missing.includes(name)),
    installed,
  );
  const shown = Buffer.from(`${there.map(({ text }) => text).join('\n\n')}\n`);
  const release = replaceInRelease(archive.release, list, shown);
  const pathOf = new Map(there.map(({ name, path }) => [`/${path}`, fetched.get(name)]));

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
    const local = pathOf.get(decodeURIComponent(path));
    (local === undefined ? get(`${url}${path}`) : readFile(local)).then(
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
  const leftOut = taken.filter((name) => !there.some((one) => one.name === name));
  return { port: Number(port), answered, missing, leftOut };
}

/** Names of what the installer takes: what is standard, and what that needs. */
function takenFrom(all: readonly InstallerPackage[], { installed }: InstallerMirrorOptions): string[] {
  const has = new Set(installed.map(({ name }) => name));
  const byName = new Map(all.map((one) => [one.name, one]));
  const names = new Set(all.filter(({ isStandard }) => isStandard).map(({ name }) => name));
  for (const name of names) for (const other of byName.get(name)?.depends ?? []) names.add(other);
  return [...names].filter((name) => byName.has(name) && !has.has(name));
}

/** The packages that have all that they depend on, among themselves and in what is installed. */
function complete(all: readonly InstallerPackage[], installed: readonly InstallerPackage[]): InstallerPackage[] {
  let left = [...all];
  for (;;) {
    const there = new Set([...left, ...installed].flatMap(({ name, provides }) => [name, ...provides]));
    const next = left.filter(({ depends }) => depends.every((name) => there.has(name)));
    if (next.length === left.length) return left;
    left = next;
  }
}

/** Reads what a mirror has; some want a plus sign in a name escaped. Throws where it hasn't. */
async function get(url: string): Promise<Buffer> {
  const response = await fetch(url.replaceAll('+', '%2b'), { signal: AbortSignal.timeout(fetchMs) });
  if (!response.ok) throw new Error(`${url} was answered with ${response.status}`);
  return Buffer.from(await response.arrayBuffer());
}

/** Release with the checksum of a list that is another now, and without other forms of that list. */
function replaceInRelease(release: string, list: string, content: Buffer): string {
  const hash = createHash('sha256').update(content).digest('hex');
  const lines = release.split('\n').filter((line) => !line.includes(` ${list}`));
  return lines.toSpliced(lines.indexOf('SHA256:') + 1, 0, ` ${hash} ${content.length} ${list}`).join('\n');
}
