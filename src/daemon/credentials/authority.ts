// Lodge's own certificate authority and the server's certificate, kept in the folder `tls` of the data folder.
//
//   ca.key  ca.crt          made once, ten years; clients trust ca.crt, so it is never replaced by itself
//   server.key  server.crt  90 days; made anew after two thirds of that, and when the machine has a new name or address
//
// Promises: keys are readable by the daemon's user only; a crash at any moment leaves either the old files or the new
// ones in use (a server key that doesn't fit its certificate is made anew); renewal needs no restart and cuts nothing.
import { X509Certificate } from 'node:crypto';
import { chmod, mkdir, open, readFile, rename } from 'node:fs/promises';
import { hostname, networkInterfaces } from 'node:os';
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { LodgeError } from '../../api/errors.ts';
import type { TlsCredentials } from '../http/listener.ts';
import { isPair, makeAuthority, makeServerCertificate, type KeyAndCertificate } from './certificate.ts';

const dayMs = 86_400_000;
const authorityLifeMs = 3650 * dayMs;
/** Life of a server certificate: below the 100 days that browsers will soon allow at most. */
export const serverLifeMs = 90 * dayMs;
/** Clocks of clients may be behind by this much. */
const clockSkewMs = 3_600_000;
/** How often it is checked whether the server needs a new certificate. */
const checkMs = 3_600_000;
/** Most names and addresses in one certificate. */
const maxNames = 100;

export interface AuthorityOptions {
  /** `tls` in the data folder. */
  folder: string;
  instance: string;
  /** Names and addresses beside those of the machine. */
  hostnames: readonly string[];
  log: Logger;
  /** For tests. */
  now?: () => number;
  machineNames?: () => string[];
}

/** Names and addresses under which this machine may be reached. */
export function machineNames(): string[] {
  const addresses = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    // Link-local addresses need a zone, which certificates can't have.
    .filter(({ address }) => !address.startsWith('fe80:'))
    .map(({ address }) => address);
  const own = hostname().toLowerCase();
  return [...(/^[a-z0-9.-]{1,253}$/.test(own) ? [own] : []), 'localhost', '127.0.0.1', '::1', ...addresses];
}

/** Opens the authority of a data folder, and makes what is missing. */
export async function openAuthority(options: AuthorityOptions): Promise<Authority> {
  const { folder } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const now = options.now ?? Date.now;
  const certificates = await readAuthority(folder);
  const authority =
    certificates ?? (await makeAuthority(`Lodge ${options.instance} authority`, validity(now(), authorityLifeMs)));
  if (certificates === null) {
    await writeSafely(join(folder, 'ca.key'), authority.key);
    await writeSafely(join(folder, 'ca.crt'), authority.cert);
  }
  const opened = new Authority(options, authority, await readServer(folder));
  await opened.check();
  opened.watch();
  return opened;
}

function validity(now: number, lifeMs: number): { notBefore: Date; notAfter: Date } {
  // Certificates count whole seconds.
  const begin = Math.floor((now - clockSkewMs) / 1000) * 1000;
  return { notBefore: new Date(begin), notAfter: new Date(begin + lifeMs) };
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (failure) {
    if (failure instanceof Error && 'code' in failure && failure.code === 'ENOENT') return null;
    throw failure;
  }
}

/** The kept authority; null when there is none. A damaged one is an error: replacing it would lock all clients out. */
async function readAuthority(folder: string): Promise<KeyAndCertificate | null> {
  const [key, cert] = await Promise.all([readText(join(folder, 'ca.key')), readText(join(folder, 'ca.crt'))]);
  // The key is written first: without the certificate nobody has trusted it yet.
  if (cert === null) return null;
  try {
    if (key !== null && isPair(key, new X509Certificate(cert).publicKey)) return { key, cert };
  } catch (cause) {
    throw damaged(folder, cause);
  }
  throw damaged(folder);
}

function damaged(folder: string, cause?: unknown): LodgeError {
  return new LodgeError(
    'host_conflict',
    `the certificate authority in ${folder} is damaged: ca.key and ca.crt do not belong together`,
    {
      hint: 'Restore both from a backup, or delete both to make a new authority, which all clients must then be given.',
      cause,
    },
  );
}

/** The kept server certificate; null when there is none that can be used. */
async function readServer(folder: string): Promise<KeyAndCertificate | null> {
  const [key, cert] = await Promise.all([readText(join(folder, 'server.key')), readText(join(folder, 'server.crt'))]);
  if (key === null || cert === null) return null;
  try {
    return isPair(key, new X509Certificate(cert).publicKey) ? { key, cert } : null;
  } catch {
    return null;
  }
}

/** Replaces a file as a whole: the name shows the old content or the new one, also after power loss. */
async function writeSafely(path: string, content: string): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/** See the top of the file. */
export class Authority implements TlsCredentials {
  /** PEM, for clients to trust. */
  readonly certificate: string;
  /** SHA-256 of the certificate as `openssl x509 -fingerprint -sha256` shows it, for people to compare. */
  readonly fingerprint: string;
  readonly #authority: KeyAndCertificate;
  readonly #options: AuthorityOptions;
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();
  #server: KeyAndCertificate | null;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: AuthorityOptions, authority: KeyAndCertificate, server: KeyAndCertificate | null) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#authority = authority;
    this.#server = server;
    const parsed = new X509Certificate(authority.cert);
    this.certificate = authority.cert;
    this.fingerprint = parsed.fingerprint256;
    const yearsLeft = (Date.parse(parsed.validTo) - this.#now()) / (365 * dayMs);
    if (yearsLeft < 1) {
      options.log.warn(
        { validTo: parsed.validTo },
        'the certificate authority ends within a year: delete ca.key and ca.crt, restart, and give the new ca.crt to all clients',
      );
    }
  }

  current(): { key: string; cert: string } {
    if (this.#server === null) throw new Error('the server certificate was not made yet');
    return { key: this.#server.key, cert: this.#server.cert + this.#authority.cert };
  }

  onRenewal(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** When the server's certificate ends. */
  get validUntil(): Date | null {
    return this.#server === null ? null : new Date(new X509Certificate(this.#server.cert).validTo);
  }

  /** Makes a new server certificate if it is time; tells whether it was. */
  async check(): Promise<boolean> {
    const names = this.#names();
    const reason = this.#whyNew(names);
    if (reason === null) return false;
    const made = await makeServerCertificate(this.#authority, names, validity(this.#now(), serverLifeMs));
    await writeSafely(join(this.#options.folder, 'server.key'), made.key);
    await writeSafely(join(this.#options.folder, 'server.crt'), made.cert);
    this.#server = made;
    this.#options.log.info({ reason, names, validUntil: this.validUntil }, 'made a new server certificate');
    for (const listener of this.#listeners) listener();
    return true;
  }

  #names(): string[] {
    const given = [...(this.#options.machineNames ?? machineNames)(), ...this.#options.hostnames];
    return [...new Set(given.map((name) => name.toLowerCase()))].slice(0, maxNames);
  }

  /** Why the server needs a new certificate, or null. */
  #whyNew(names: readonly string[]): string | null {
    if (this.#server === null) return 'there was none';
    const current = new X509Certificate(this.#server.cert);
    if (!current.verify(new X509Certificate(this.#authority.cert).publicKey))
      return 'it was signed by another authority';
    const now = this.#now();
    const begin = Date.parse(current.validFrom);
    const end = Date.parse(current.validTo);
    if (now < begin) return 'it is not valid yet by the clock of this machine';
    if (now >= begin + ((end - begin) * 2) / 3) return 'two thirds of its life are over';
    const missing = names.filter((name) =>
      isIP(name) === 0
        ? current.checkHost(name, { subject: 'never' }) === undefined
        : current.checkIP(name) === undefined,
    );
    return missing.length === 0 ? null : `it lacks ${missing.join(', ')}`;
  }

  /** Checks every hour, until {@link close}. */
  watch(): void {
    this.#timer ??= setInterval(() => {
      this.check().catch((failure: unknown) =>
        this.#options.log.error(
          { err: failure },
          'the server certificate could not be renewed; it is tried again in an hour',
        ),
      );
    }, checkMs);
    this.#timer.unref();
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }
}
