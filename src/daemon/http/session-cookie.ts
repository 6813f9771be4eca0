// The cookie of a session, and what a request must show beside it. A browser adds cookies by itself, so a cookie alone
// proves no intention: what is more than reading must come from a page of this very origin (RFC 6454) and repeat a token
// that only such a page can know. SameSite=Strict does the same in browsers that keep to it; neither relies on the other.
import type { IncomingMessage } from 'node:http';
import { timingSafeEqual } from 'node:crypto';
import { LodgeError } from '../../api/errors.ts';
import { csrfHeader } from '../../api/session.ts';
import type { CallerSession } from './context.ts';

/** With this prefix browsers take it from HTTPS only, for this host only (RFC 6265bis, 4.1.3.2). */
export const sessionCookie = '__Host-lodge';

/** The secret in the request's cookies; null where there is none. */
export function sessionSecret(request: IncomingMessage): string | null {
  for (const part of (request.headers.cookie ?? '').split(';')) {
    const [name = '', value = ''] = part.trim().split('=', 2);
    if (name === sessionCookie && /^[A-Za-z0-9_-]{1,200}$/.test(value)) return value;
  }
  return null;
}

/** Throws `forbidden` where a request with a session does not come from a page of the daemon itself. */
export function checkSameOrigin(request: IncomingMessage, session: CallerSession): void {
  const { method = '' } = request;
  const site = request.headers['sec-fetch-site'];
  if (site !== undefined && site !== 'same-origin' && site !== 'none') throw fromElsewhere(`it comes from ${site}`);
  if (method === 'GET' || method === 'HEAD') return;
  const origin = request.headers.origin ?? '';
  const host = request.headers.host ?? '';
  if (URL.parse(origin)?.host !== host || host === '') {
    throw fromElsewhere(`its Origin is ${JSON.stringify(origin.slice(0, 100))}`);
  }
  const given = Buffer.from(String(request.headers[csrfHeader] ?? ''));
  const wanted = Buffer.from(session.csrfToken);
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) {
    throw fromElsewhere(`its header ${csrfHeader} is not the session’s`);
  }
}

function fromElsewhere(why: string): LodgeError {
  return new LodgeError('forbidden', `the request came with a session, but not from a page of this daemon: ${why}`, {
    hint: 'Programs use an access token in the header Authorization, not a cookie.',
  });
}
