// Loading of the console's parts: pages, dialogs, languages and libraries that come when they are first needed.
//
// Promises: a part that can't be had because the daemon is away comes when the daemon is back, and what the page shows
// meanwhile stays, forms included. Only a console that was built anew, which no longer has the old one's files, is loaded
// again as a whole, and never again and again.
import { lazy, type FunctionComponent, type LazyExoticComponent } from 'react';
import { client } from './client.ts';

/** Between two questions whether the daemon is back, milliseconds. */
const askMs = 1000;
/** A page that was loaded again for want of a part is not loaded again within this time, milliseconds. */
const reloadMs = 10_000;
const reloadKey = 'lodge-reload';

/** What `load` imports, however long the daemon is away. Throws when the part is missing although the daemon is there. */
export async function loadPart<Part>(load: () => Promise<Part>): Promise<Part> {
  try {
    return await load();
  } catch {
    await untilDaemonAnswers();
  }
  try {
    return await load();
  } catch (failure) {
    // Gone, or remembered as missing: some browsers never ask twice for a script.
    const last = Number(sessionStorage.getItem(reloadKey) ?? 0);
    if (Date.now() - last < reloadMs) throw failure;
    sessionStorage.setItem(reloadKey, String(Date.now()));
    location.reload();
    return new Promise(() => undefined);
  }
}

/** A component of a part, for Suspense. */
export function lazyPart<Props>(
  load: () => Promise<FunctionComponent<Props>>,
): LazyExoticComponent<FunctionComponent<Props>> {
  return lazy(async () => ({ default: await loadPart(load) }));
}

async function untilDaemonAnswers(): Promise<void> {
  for (;;) {
    try {
      await client.server.readyz({}, { timeoutMs: 4 * askMs });
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, askMs));
    }
  }
}
