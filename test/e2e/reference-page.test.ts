// The API reference as a person sees it: over HTTPS from the real daemon, in a real browser, with its script, in both
// themes, on a telephone and on a large screen, under the content security policy that the daemon sends.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allRoutes } from '../../src/api/contract.ts';
import { startBrowser } from '../support/browser.ts';
import { startDaemon } from '../support/daemon.ts';
import { networkNamespace } from '../support/namespace.ts';

test('the reference page in a browser', async (t) => {
  const namespace = await networkNamespace(t);
  const daemon = await startDaemon(t, { driver: 'fake', listen: '127.0.0.1:0', namespace });
  const { httpsAddress } = await daemon.client.server.get();
  assert.ok(httpsAddress);
  const browser = await startBrowser(t, namespace);
  // The daemon's own authority is known to nobody in this browser; that TLS is right is tested elsewhere.
  const open = async (width: number, colorScheme: 'light' | 'dark') => {
    const context = await browser.newContext({
      ignoreHTTPSErrors: true,
      viewport: { width, height: 900 },
      colorScheme,
    });
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(error.message));
    await page.goto(`${httpsAddress}/docs`);
    return { page, complaints, close: () => context.close() };
  };

  await t.test('shows every operation and complains of nothing', async () => {
    const { page, complaints, close } = await open(1400, 'light');
    assert.equal(await page.locator('.operation').count(), allRoutes().length);
    assert.match(await page.title(), /Lodge/);
    assert.deepEqual(complaints, []);
    await close();
  });

  await t.test('narrows to what is searched for, and shows all again', async () => {
    const { page, close } = await open(1400, 'light');
    await page.keyboard.press('/');
    await page.keyboard.type('screenshot');
    assert.equal(await page.locator('.operation:visible').count(), 1);
    await page.keyboard.press('Escape');
    assert.equal(await page.locator('.operation:visible').count(), allRoutes().length);
    await close();
  });

  await t.test('fits every width without scrolling sideways', async () => {
    for (const width of [360, 800, 1400]) {
      const { page, close } = await open(width, 'light');
      const overflow = await page.evaluate(
        'document.documentElement.scrollWidth - document.documentElement.clientWidth',
      );
      assert.ok(Number(overflow) <= 0, `${width} px: ${String(overflow)} px too wide`);
      await close();
    }
  });

  await t.test('follows the system’s light and dark', async () => {
    const background = async (scheme: 'light' | 'dark'): Promise<unknown> => {
      const { page, close } = await open(1400, scheme);
      const color = await page.evaluate('getComputedStyle(document.body).backgroundColor');
      await close();
      return color;
    };
    assert.notEqual(await background('light'), await background('dark'));
  });
});
