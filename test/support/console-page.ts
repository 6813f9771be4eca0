// The web console in a browser, signed in, for a test: it notes what the browser complains of, and looks for what keeps
// people out (axe-core).
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { type Browser, type BrowserContext, type Page } from 'playwright-core';
import { type LodgeClient } from '../../src/client/client.ts';

export interface ConsoleOptions {
  width?: number;
  height?: number;
  colorScheme?: 'light' | 'dark';
  locale?: string;
}

/** An open console. */
export interface ConsolePage {
  page: Page;
  context: BrowserContext;
  /** https://host:port. */
  origin: string;
  /** What the browser said was wrong, since it was last asked. */
  complaints: () => string[];
  /** Goes to an address of the console and waits for its heading. */
  open: (path: string) => Promise<void>;
  /** The same without loading the page anew. */
  visit: (path: string) => Promise<void>;
  close: () => Promise<void>;
}

/** The longest that anything may take to be shown, in milliseconds: a busy machine is slow. */
const shownMs = 30_000;

/** Opens the console. `client` makes the link that signs it in; without it, it is not signed in. */
export async function openConsole(
  browser: Browser,
  origin: string,
  client: LodgeClient | null,
  options: ConsoleOptions = {},
): Promise<ConsolePage> {
  const context = await browser.newContext({
    // That TLS is right is tested elsewhere; the daemon's own authority is known to nobody in this browser.
    ignoreHTTPSErrors: true,
    viewport: { width: options.width ?? 1360, height: options.height ?? 900 },
    colorScheme: options.colorScheme ?? 'light',
    locale: options.locale ?? 'en-US',
    reducedMotion: 'reduce',
  });
  context.setDefaultTimeout(shownMs);
  const page = await context.newPage();
  let noted: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) noted.push(message.text());
  });
  page.on('pageerror', (error) => noted.push(error.message));
  const path = client === null ? '/' : (await client.session.createLink()).path;
  await page.goto(`${origin}${path}`);
  await page.locator('h1').first().waitFor();
  return {
    page,
    context,
    origin,
    complaints: () => {
      const before = noted;
      noted = [];
      return before;
    },
    open: async (where) => {
      await page.goto(`${origin}${where}`);
      await page.locator('main h1').first().waitFor();
    },
    visit: async (where) => {
      await page.evaluate(`history.pushState({}, '', ${JSON.stringify(where)})`);
      await page.waitForURL(`${origin}${where}`);
      await page.locator('main h1').first().waitFor();
      // Tabs are loaded when they are opened first.
      await page.locator('main [role=status][aria-label=Loading]').first().waitFor({ state: 'detached' });
      await page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))');
    },
    close: () => context.close(),
  };
}

let axe: Promise<string> | null = null;

interface Violation {
  id: string;
  nodes: { target: string[]; failureSummary: string }[];
}

/** Rules of WCAG 2.2 AA that the page breaks, each with where. */
export async function accessibilityProblems(page: Page): Promise<string[]> {
  axe ??= readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  await page.evaluate(await axe);
  const found = await page.evaluate<Violation[]>(
    `axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }).then(({ violations }) => violations)`,
  );
  return found.flatMap(({ id, nodes }) =>
    nodes.slice(0, 3).map(({ target, failureSummary }) => `${id}: ${target.join(' ')}: ${failureSummary}`),
  );
}

/** Fails where the page is wider than its window. */
export async function assertFits(page: Page, what: string): Promise<void> {
  const tooWide = await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth');
  assert.ok(Number(tooWide) <= 0, `${what}: ${String(tooWide)} px too wide`);
  // The header stays in its place, so what does not fit into it makes no page wider.
  const beyond = await page.evaluate(
    `[...document.querySelectorAll('header button')].filter((one) => one.getBoundingClientRect().right > innerWidth).length`,
  );
  assert.equal(beyond, 0, `${what}: buttons of the header are beyond the edge`);
}
