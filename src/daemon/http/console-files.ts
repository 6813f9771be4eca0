// The web console as files: what tools/build-console.ts has made, kept in memory, compressed beforehand. Files with a hash
// in their name never change; the page itself is asked for each time, with a nonce of its own for the styles that its
// scripts make. A console that is built anew is taken over at the next request of the page, without a restart.
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';
import { extname, join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

/** An answer with a file of the console. */
export interface Page {
  status: number;
  headers: Readonly<Record<string, string>>;
  content: Buffer | string;
}

/** What answers to paths that no route knows. */
export interface Pages {
  /** null: this path is none of its own. */
  find(path: string, headers: IncomingHttpHeaders): Page | null;
}

const contentTypes: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
  '.png': 'image/png',
};

/** What stands in the built page where the nonce goes. */
const nonceMark = '__LODGE_NONCE__';

/**
 * Nothing from elsewhere, nothing inline, no frames. Scripts make style elements (Mantine, xterm.js), which need the
 * nonce; what they set on elements through the CSSOM needs none (CSP 3, 6.7.3.2).
 */
function policy(nonce: string): string {
  return [
    "default-src 'none'",
    "script-src 'self'",
    `style-src 'self' 'nonce-${nonce}'`,
    "img-src 'self' blob: data:",
    "font-src 'self'",
    "connect-src 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
}

const pageHeaders = {
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'permissions-policy': 'camera=(), microphone=(), geolocation=(), payment=(), usb=()',
} as const;

interface Built {
  /** When it was built; another one is another console. */
  modifiedMs: number;
  page: string;
  files: ReadonlyMap<string, { type: string; brotli: Buffer | null; plain: Buffer | null; isHashed: boolean }>;
}

/** How often it is looked at whether the console was built anew, milliseconds. */
const lookMs = 1000;

/** See the top of the file. */
export class ConsoleFiles implements Pages {
  readonly #folder: string;
  #built: Built | null = null;
  #lookedAt = -Infinity;

  constructor(folder: string = join(import.meta.dirname, '../../../web/dist')) {
    this.#folder = folder;
  }

  find(path: string, headers: IncomingHttpHeaders): Page | null {
    const isPage = path === '/' || (headers.accept ?? '').includes('text/html');
    const built = this.#current();
    const file = built?.files.get(path);
    if (file !== undefined) return fileAnswer(file, headers['accept-encoding'] ?? '');
    if (!isPage || path.startsWith('/v1/') || path.startsWith('/assets/')) return null;
    const nonce = randomBytes(16).toString('base64');
    const common = {
      ...pageHeaders,
      'content-security-policy': policy(nonce),
      'content-type': contentTypes['.html'] ?? '',
      'cache-control': 'no-cache',
    };
    if (built === null) return { status: 503, headers: common, content: notBuilt };
    return { status: 200, headers: common, content: built.page.replaceAll(nonceMark, nonce) };
  }

  #current(): Built | null {
    const now = performance.now();
    if (now - this.#lookedAt < lookMs) return this.#built;
    this.#lookedAt = now;
    try {
      const { mtimeMs } = statSync(join(this.#folder, 'build.json'));
      if (this.#built?.modifiedMs !== mtimeMs) this.#built = read(this.#folder, mtimeMs);
    } catch {
      // Not built yet, or being replaced in this very moment: what was there goes on.
    }
    return this.#built;
  }
}

function read(folder: string, modifiedMs: number): Built {
  const files: Map<string, { type: string; brotli: Buffer | null; plain: Buffer | null; isHashed: boolean }> =
    new Map();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name === 'index.html' || entry.name === 'build.json') continue;
    const isCompressed = entry.name.endsWith('.br');
    const path = join(entry.parentPath, entry.name);
    const url = `/${path.slice(folder.length + 1).replace(/\.br$/, '')}`;
    const type = contentTypes[extname(url)];
    if (type === undefined) continue;
    const content = readFileSync(path);
    files.set(url, {
      type,
      brotli: isCompressed ? content : null,
      plain: isCompressed ? null : content,
      isHashed: url.startsWith('/assets/'),
    });
  }
  return { modifiedMs, page: readFileSync(join(folder, 'index.html'), 'utf8'), files };
}

function fileAnswer(
  file: { type: string; brotli: Buffer | null; plain: Buffer | null; isHashed: boolean },
  accepted: string,
): Page {
  const headers = {
    'content-type': file.type,
    'cache-control': file.isHashed ? 'public, max-age=31536000, immutable' : 'no-cache',
    vary: 'accept-encoding',
  };
  if (file.plain !== null) return { status: 200, headers, content: file.plain };
  const brotli = file.brotli ?? Buffer.alloc(0);
  if (/(^|[\s,])br\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/.test(accepted)) {
    return { status: 200, headers: { ...headers, 'content-encoding': 'br' }, content: brotli };
  }
  return { status: 200, headers, content: brotliDecompressSync(brotli) };
}

const notBuilt = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Lodge</title>
<h1>The web console is not built</h1>
<p>The daemon runs, but its console is missing. In the folder of Lodge, run <code>npm start</code>, or <code>npm run console:build</code>, and load this page again. The API can be read at <a href="/docs">/docs</a>.</p>
</html>
`;
