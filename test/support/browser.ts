// A real browser for a test, headless and in the test's own network namespace, where the daemon listens.
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium, type Browser } from 'playwright-core';
import { CommandError, run } from '../../src/host/command.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { type NetworkNamespace } from './namespace.ts';
import { temporaryFolder } from './temporary.ts';

const switches = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

async function findBrowser(): Promise<string> {
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try {
      return (await run(['which', name])).stdout.trim();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    }
  }
  throw new Error('no Chromium is installed: npm test installs it');
}

/** Starts the system's Chromium in the namespace; it ends with the test. */
export async function startBrowser(test: Cleanup, namespace: NetworkNamespace): Promise<Browser> {
  const program = await findBrowser();
  const folder = await temporaryFolder(test);
  // The library puts its switches right behind the program, so the namespace has to be entered by a program of one word.
  const wrapper = join(folder, 'chromium');
  const words = namespace.command([program]).map((word) => `'${word}'`);
  await writeFile(wrapper, `#!/bin/sh\nexec ${words.join(' ')} "$@"\n`);
  await chmod(wrapper, 0o755);
  const browser = await chromium.launch({
    executablePath: wrapper,
    headless: true,
    args: switches,
    env: { ...process.env, HOME: folder },
  });
  atEnd(test, () => browser.close());
  return browser;
}
