// The documents that describe the contract: OpenAPI, and the page to read. They are made when somebody first asks.
import { readFileSync } from 'node:fs';
import type { NounHandlers } from '../../api/contract.ts';
import { openApiDocument } from '../../api/openapi.ts';
import { byteAnswer, type ByteSource, type RequestContext } from './context.ts';
import { referencePage } from './reference/page.ts';
import type { StaticFile } from './server.ts';

/** The page loads nothing from elsewhere, runs nothing inline, and can't be framed. */
const pageHeaders = {
  'content-security-policy':
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
} as const;

/** Handlers of the routes that answer with documents. */
export function documentHandlers(): Pick<NounHandlers<'server', RequestContext, ByteSource>, 'openapi' | 'reference'> {
  let openApi: Buffer | null = null;
  let page: Buffer | null = null;
  return {
    openapi: async () => byteAnswer((openApi ??= Buffer.from(JSON.stringify(openApiDocument())))),
    reference: async () => byteAnswer((page ??= Buffer.from(referencePage())), { headers: pageHeaders }),
  };
}

function read(name: string): Buffer {
  return readFileSync(new URL(`./reference/${name}`, import.meta.url));
}

/** What the page loads beside itself. */
export function documentFiles(): StaticFile[] {
  const headers = { 'cache-control': 'public, max-age=300' };
  return [
    { path: '/docs/reference.css', contentType: 'text/css; charset=utf-8', content: read('reference.css'), headers },
    { path: '/docs/search.js', contentType: 'text/javascript; charset=utf-8', content: read('search.js'), headers },
    { path: '/docs/icon.svg', contentType: 'image/svg+xml', content: read('icon.svg'), headers },
  ];
}
