// Signing in by a one-time link, whose code stands behind "#" and is taken out of the address at once.
import { signInPath } from '../../src/api/session.ts';
import { openSession } from '../data/client.ts';

/** The code of a one-time link that the page was opened by. It is read once, before anything is drawn. */
function takeCode(): string | null {
  if (location.pathname !== signInPath) return null;
  const code = new URLSearchParams(location.hash.slice(1)).get('code');
  history.replaceState(null, '', '/');
  return code;
}

let pendingCode = takeCode();
let underWay: Promise<void> | null = null;

/** Signs in by the link that the page was opened by; null where it was not. */
export function signInByLink(): Promise<void> | null {
  if (pendingCode !== null) {
    underWay = openSession({ code: pendingCode });
    pendingCode = null;
  }
  return underWay;
}
