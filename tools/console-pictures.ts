// Takes pictures of every page of the console, wide and narrow, light and dark, in English and Chinese, from a daemon of its
// own with guests that are only pretended. For looking at, and for the README and the docs.
//
//   npm run console:pictures -- FOLDER                 all of them
//   npm run console:pictures -- FOLDER --page vm       pages whose name begins with this
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type Browser } from 'playwright-core';
import { startBrowser } from '../test/support/browser.ts';
import { type Cleanup } from '../test/support/cleanup.ts';
import { consolePages, fillConsole } from '../test/support/console-world.ts';
import { startDaemon, type TestDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { buildConsole } from './build-console.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { page: { type: 'string', default: '' }, only: { type: 'string' } },
});

/** How a page is looked at; the first is the one for documents. */
const looks = [
  { name: 'wide-light-en', width: 1440, height: 900, colorScheme: 'light', locale: 'en-US' },
  { name: 'wide-dark-zh', width: 1440, height: 900, colorScheme: 'dark', locale: 'zh-CN' },
  { name: 'narrow-light-zh', width: 360, height: 780, colorScheme: 'light', locale: 'zh-CN' },
  { name: 'narrow-dark-en', width: 360, height: 780, colorScheme: 'dark', locale: 'en-US' },
] as const;

async function takePictures(browser: Browser, daemon: TestDaemon, folder: string): Promise<void> {
  const { httpsAddress } = await daemon.client.server.get();
  for (const look of looks.filter(({ name }) => options.only === undefined || name === options.only)) {
    const context = await browser.newContext({
      ignoreHTTPSErrors: true,
      viewport: { width: look.width, height: look.height },
      colorScheme: look.colorScheme,
      locale: look.locale,
      reducedMotion: 'reduce',
    });
    const page = await context.newPage();
    page.on('console', (message) => {
      if (message.type() === 'error') console.error(`${look.name}: ${message.text()}`);
    });
    page.on('pageerror', (error) => console.error(`${look.name}: ${error.message}`));
    const { path } = await daemon.client.session.createLink();
    await page.goto(`${httpsAddress}${path}`);
    await page.locator('h1').first().waitFor();
    for (const { name, path: where } of consolePages.filter((one) => one.name.startsWith(options.page))) {
      await page.goto(`${httpsAddress}${where}`);
      await page.locator('main h1').first().waitFor();
      await page.waitForLoadState('networkidle', { timeout: 1500 }).catch(() => undefined);
      await page.screenshot({ path: join(folder, `${name}-${look.name}.png`) });
    }
    await context.close();
  }
}

async function main(): Promise<void> {
  const [given] = positionals;
  if (given === undefined) throw new Error('give the folder for the pictures: npm run console:pictures -- FOLDER');
  const folder = resolve(process.env['INIT_CWD'] ?? '.', given);
  await mkdir(folder, { recursive: true });
  const undo: (() => unknown)[] = [];
  const cleanup: Cleanup = { after: (each) => void undo.push(each as () => unknown) };
  try {
    await buildConsole();
    const namespace = await networkNamespace(cleanup);
    const daemon = await startDaemon(cleanup, { driver: 'fake', listen: '127.0.0.1:0', namespace });
    await fillConsole(daemon.client);
    await takePictures(await startBrowser(cleanup, namespace), daemon, folder);
    console.log(`The pictures are in ${folder}.`);
  } finally {
    for (const each of undo.toReversed()) await each();
  }
}

await main();
