// The one client of the daemon in this page, and who has signed in. Everything goes through src/client: the page has no
// other way to the daemon than any program has.
import { useSyncExternalStore } from 'react';
import { LodgeError } from '../../src/api/errors.ts';
import { roleAllows, type Permission } from '../../src/api/permission.ts';
import { csrfHeader, type Session } from '../../src/api/session.ts';
import { createClient, type FetchLike } from '../../src/client/client.ts';

/** Who this page is to the daemon. `checking`: it is being asked; `expired`: it was signed in, and is no longer. */
export type SignIn =
  | { state: 'checking' | 'signed-out'; session: null }
  | { state: 'signed-in' | 'expired'; session: Session };

/** Tells this browser that there may be a session to ask for: the cookie itself can't be seen by scripts. */
const hintKey = 'lodge-signed-in';

let signIn: SignIn =
  localStorage.getItem(hintKey) === null
    ? { state: 'signed-out', session: null }
    : { state: 'checking', session: null };
const listeners = new Set<() => void>();

function become(next: SignIn): void {
  signIn = next;
  if (next.state === 'signed-in') localStorage.setItem(hintKey, 'yes');
  if (next.state === 'signed-out') localStorage.removeItem(hintKey);
  for (const listener of listeners) listener();
}

const sendWithSession: FetchLike = (url, init) => {
  const token = signIn.session?.csrfToken;
  const headers = token === undefined ? init.headers : { ...init.headers, [csrfHeader]: token };
  return fetch(url, { ...init, headers });
};

export const client = createClient({ fetch: sendWithSession });

/** Asks the daemon whether this browser has signed in. Throws when there is no answer. */
export async function checkSession(): Promise<void> {
  try {
    become({ state: 'signed-in', session: await client.session.get() });
  } catch (failure) {
    if (!(failure instanceof LodgeError) || !['unauthenticated', 'not_found'].includes(failure.code)) throw failure;
    become({ state: 'signed-out', session: null });
  }
}

/** Signs in. Throws `unauthenticated` for what opens nothing. */
export async function openSession(credentials: { token: string } | { code: string }): Promise<void> {
  become({ state: 'signed-in', session: await client.session.create({ body: credentials }) });
}

/** Signs this browser out, or every browser of this caller. */
export async function closeSession(isEverywhere: boolean): Promise<void> {
  await (isEverywhere ? client.session.deleteAll() : client.session.delete());
  become({ state: 'signed-out', session: null });
}

/** Told of every error: a session that has ended is asked for again, over what is being shown. */
export function noteFailure(failure: unknown): void {
  if (failure instanceof LodgeError && failure.code === 'unauthenticated' && signIn.state === 'signed-in') {
    become({ state: 'expired', session: signIn.session });
  }
}

export function useSignIn(): SignIn {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => signIn,
  );
}

/** Whether whoever has signed in may do something. */
export function useMay(permission: Permission): boolean {
  const { session } = useSignIn();
  return session !== null && roleAllows(session.role, permission);
}
