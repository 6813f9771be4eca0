// The web console as people use it: the real console in a real browser, from the real daemon. Guests are pretended where
// many are wanted; one is real.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Browser } from 'playwright-core';
import { waitForTaskEnd } from '../../src/client/follow.ts';
import { buildConsole } from '../../tools/build-console.ts';
import { startBrowser } from '../support/browser.ts';
import { accessibilityProblems, assertFits, openConsole } from '../support/console-page.ts';
import { consolePages, fillConsole } from '../support/console-world.ts';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { networkNamespace } from '../support/namespace.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

/** In a namespace of its own any port is free; the same one is found again when the daemon was restarted. */
const listen = '127.0.0.1:7443';
const origin = 'https://localhost:7443';
/** Script that may be loaded before a console or a plot is opened, in bytes over the wire. */
const maxScriptBytes = 250_000;

/** Refused requests, which Chromium reports of its own; everything else is a complaint. */
function otherThanRefused(complaints: readonly string[]): string[] {
  return complaints.filter((line) => !line.startsWith('Failed to load resource'));
}

test('the web console', async (t) => {
  await buildConsole();
  const namespace = await networkNamespace(t);
  const daemon: TestDaemon = await startDaemon(t, { driver: 'fake', listen, namespace });
  const browser: Browser = await startBrowser(t, namespace);
  const { client } = daemon;

  await t.test('an empty machine says what to do, and nobody gets in without credentials', async () => {
    const stranger = await openConsole(browser, origin, null);
    await stranger.page.getByRole('heading', { name: 'Sign in' }).waitFor();
    assert.deepEqual(stranger.complaints(), []);
    assert.deepEqual(await accessibilityProblems(stranger.page), []);
    await stranger.page.getByRole('textbox', { name: 'Access token' }).fill('lodge_wrong');
    await stranger.page.getByRole('button', { name: 'Sign in' }).click();
    await stranger.page.getByRole('alert').getByText('not known').waitFor();

    const { secret } = await client.token.create({ body: { name: 'looker', role: 'viewer' } });
    await stranger.page.getByRole('textbox', { name: 'Access token' }).fill(secret);
    await stranger.page.getByRole('button', { name: 'Sign in' }).click();
    await stranger.page.getByText('No virtual machines yet').waitFor();
    assert.deepEqual(otherThanRefused(stranger.complaints()), []);
    await stranger.page.getByRole('button', { name: 'Account, language and colours' }).click();
    await stranger.page.getByRole('menuitem', { name: 'Sign out', exact: true }).click();
    await stranger.page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await stranger.close();
  });

  await fillConsole(client);

  await t.test('a link signs in once; the first load is small, kept for ever, and under a strict policy', async () => {
    const { path } = await client.session.createLink();
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    const scripts: { url: string; bytes: number; headers: Record<string, string> }[] = [];
    let policy = '';
    const seen: Promise<void>[] = [];
    page.on('response', (response) => {
      seen.push(
        (async () => {
          const headers = await response.allHeaders();
          if (response.url().endsWith('.js')) {
            const { responseBodySize } = await response.request().sizes();
            scripts.push({ url: response.url(), bytes: responseBodySize, headers });
          }
          if (headers['content-type']?.startsWith('text/html') === true) {
            policy = headers['content-security-policy'] ?? '';
          }
        })(),
      );
    });
    await page.goto(`${origin}${path}`);
    await page.getByRole('link', { name: 'db1', exact: true }).waitFor();
    await Promise.all(seen);
    const bytes = scripts.reduce((sum, script) => sum + script.bytes, 0);
    assert.ok(scripts.length > 0 && bytes > 50_000, 'the scripts were seen');
    if (process.env['LODGE_SHOW_LOADED'] === '1') {
      for (const one of scripts.toSorted((a, b) => b.bytes - a.bytes)) console.log(one.bytes, one.url);
    }
    t.diagnostic(`first load: ${scripts.length} scripts, ${bytes} bytes`);
    assert.ok(bytes <= maxScriptBytes, `${bytes} bytes of script`);
    for (const { url, headers } of scripts) {
      assert.equal(headers['content-encoding'], 'br', url);
      assert.match(headers['cache-control'] ?? '', /immutable/, url);
    }
    assert.match(policy, /script-src 'self';/);
    assert.doesNotMatch(policy, /unsafe/);
    assert.equal(new URL(page.url()).hash, '', 'the code is gone from the address');
    const again = await context.browser()?.newContext({ ignoreHTTPSErrors: true });
    const second = await again?.newPage();
    await second?.goto(`${origin}${path}`);
    await second?.getByRole('alert').getByText('used already').waitFor();
    await again?.close();
    await context.close();
  });

  await t.test('every page is shown, without complaints, and for everybody', async () => {
    const { page, visit, complaints, close } = await openConsole(browser, origin, client);
    for (const { name, path } of consolePages) {
      await visit(path);
      assert.deepEqual(await accessibilityProblems(page), [], name);
      assert.deepEqual(complaints(), [], name);
    }
    await close();
  });

  await t.test('every page fits a telephone, in the dark and in Chinese', async () => {
    const look = { width: 360, height: 740, colorScheme: 'dark', locale: 'zh-CN' } as const;
    const { page, visit, complaints, close } = await openConsole(browser, origin, client, look);
    await page.getByRole('heading', { name: '虚拟机', level: 1 }).waitFor();
    for (const { name, path } of consolePages) {
      await visit(path);
      await assertFits(page, name);
      assert.deepEqual(complaints(), [], name);
    }
    await visit('/vms');
    assert.deepEqual(await accessibilityProblems(page), []);
    await close();

    const english = await openConsole(browser, origin, client, { ...look, locale: 'en-US' });
    await english.page.getByRole('link', { name: 'db1' }).waitFor();
    await assertFits(english.page, 'the list of VMs in English');
    const beyond = await english.page.evaluate('document.querySelector(".data-table").scrollWidth - innerWidth');
    assert.ok(Number(beyond) <= 0, `the list of VMs: ${String(beyond)} px beyond the edge`);
    await english.close();
  });

  await t.test('a VM is made by its name, and what happens elsewhere is shown at once', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms/new');
    await page.getByLabel('Name').first().fill('made-here');
    await page.getByRole('combobox', { name: 'Network' }).click();
    await page.getByRole('option', { name: 'user' }).click();
    await page.getByText('lodge vm create made-here --network user').waitFor();
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    await page.getByRole('heading', { name: 'made-here' }).waitFor();
    await page.locator('[data-state=running]').first().waitFor();
    await client.vm.pause({ params: { vm: 'made-here' } });
    await page.locator('[data-state=paused]').first().waitFor();
    // What can't be done is said, not hidden.
    await page.getByRole('button', { name: 'More' }).click();
    await page
      .getByRole('menuitem', { name: /^Pause/ })
      .getByText('It is Paused; this needs: Running.')
      .waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.locator('[data-state=running]').first().waitFor();
    // A picture of its display that is asked for while it is being paused is refused.
    assert.deepEqual(otherThanRefused(complaints()), []);
    await close();
  });

  await t.test('the palette finds objects, and keys lead to pages', async () => {
    const { page, complaints, close } = await openConsole(browser, origin, client);
    await page.keyboard.press('Control+k');
    await page.getByPlaceholder('Name of an object, page or action').fill('old-mail');
    await page.getByRole('button', { name: 'old-mail', exact: true }).waitFor();
    await page.getByRole('button', { name: 'old-mail', exact: true }).click();
    await page.getByRole('heading', { name: 'old-mail' }).waitFor();
    await page.keyboard.press('g');
    await page.keyboard.press('e');
    await page.getByRole('heading', { name: 'Events' }).waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog').getByText('Create a virtual machine').waitFor();
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('a view of a list is kept under a name, and forgotten again', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms');
    await page.getByLabel('State', { exact: true }).selectOption('stopped');
    await page.getByRole('button', { name: 'Views' }).click();
    await page.getByLabel('Keep this view as').fill('Switched off');
    await page.getByRole('button', { name: 'Keep', exact: true }).click();
    await page.getByRole('button', { name: 'Forget Switched off' }).waitFor();
    assert.deepEqual(await accessibilityProblems(page), []);
    await open('/vms');
    await page.getByRole('button', { name: 'Views' }).click();
    await page.getByRole('button', { name: 'Switched off', exact: true }).click();
    await page.waitForURL(/filter=status\.state/);
    await page.locator('[data-state=running]').first().waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Views' }).click();
    await page.getByRole('button', { name: 'Forget Switched off' }).click();
    await page.getByText('No views are kept yet').waitFor();
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('the firewall explains what becomes of a connection, and the address keeps the question', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/firewall/explain');
    await page.getByRole('combobox', { name: 'From', exact: true }).fill('host');
    await page.getByRole('combobox', { name: 'To', exact: true }).fill('cache1');
    await page.getByRole('textbox', { name: 'Port', exact: true }).fill('22');
    await page.getByRole('button', { name: 'Explain', exact: true }).click();
    await page.locator('[data-state=allowed]').waitFor();
    await page.getByText('Programs of this host are always let into cache1.').waitFor();
    await page.getByText('lodge firewall explain host cache1 tcp/22').waitFor();
    await open('/firewall/explain?from=internet&to=cache1&protocol=tcp&detail=22');
    await page.locator('[data-state=denied]').waitFor();
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('the list is shown as cards too, and stays so', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms');
    await page.getByRole('button', { name: 'As cards' }).click();
    await page.getByRole('listitem').filter({ hasText: 'db1' }).locator('[data-state=running]').waitFor();
    await page.getByRole('img', { name: /db1/ }).waitFor();
    assert.deepEqual(await accessibilityProblems(page), []);
    await open('/vms');
    await page.getByRole('listitem').filter({ hasText: 'old-mail' }).waitFor();
    await page.getByRole('button', { name: 'As a table' }).click();
    await page.getByRole('button', { name: 'Name' }).waitFor();
    assert.deepEqual(otherThanRefused(complaints()), []);
    await close();
  });

  await t.test('many are acted on at once, with a result for each', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms?selector=app%3Dweb');
    for (const name of ['web1', 'web2']) await page.getByRole('checkbox', { name: `Choose ${name}` }).check();
    await page.getByRole('toolbar').getByRole('button', { name: 'Shut down' }).click();
    await page.getByText('Done: 2 · failed: 0 · skipped: 0').waitFor();
    await eventually(async () => (await client.vm.get({ params: { vm: 'web2' } })).status.state === 'stopped');
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('two people edit one VM: other fields are put together, the same ones are named', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms/builder/spec');
    const editor = page.getByRole('textbox', { name: 'Labels and spec' });
    await editor.waitFor();
    await editor.fill((await editor.inputValue()).replace('memoryMib: 256', 'memoryMib: 320'));
    await page.getByText('What applying changes').waitFor();
    const { spec } = await client.vm.get({ params: { vm: 'builder' } });
    await client.vm.update({ params: { vm: 'builder' }, body: { spec: { ...spec, description: 'by another' } } });
    await page.getByText('Somebody else has changed it meanwhile').waitFor();
    await page.getByText('You changed other fields; applying keeps both.').waitFor();
    await page.getByRole('button', { name: 'Apply' }).click();
    const changed = await eventually(async () => {
      const now = await client.vm.get({ params: { vm: 'builder' } });
      return now.spec.memoryMib === 320 ? now : null;
    });
    assert.equal(changed.spec.description, 'by another');

    await eventually(async () => (await editor.inputValue()).includes('by another'));
    await editor.fill((await editor.inputValue()).replace('by another', 'by me'));
    await page.getByText('What applying changes').waitFor();
    await client.vm.update({ params: { vm: 'builder' }, body: { spec: { ...changed.spec, description: 'again' } } });
    await page.getByText('Both of you changed spec.description').waitFor();
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('markup in what others write is text', async () => {
    const description = `<img src=x onerror="document.title='run'"> \u202e rtl ${'long '.repeat(150)}`;
    const { spec } = await client.vm.get({ params: { vm: 'old-mail' } });
    await client.vm.update({ params: { vm: 'old-mail' }, body: { spec: { ...spec, description } } });
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms/old-mail');
    await page.getByText('<img src=x').first().waitFor();
    assert.match(await page.title(), /old-mail/);
    await assertFits(page, 'a long description');
    assert.deepEqual(complaints(), []);
    await close();
  });

  await t.test('the daemon goes and comes back: it is said, and nothing is missed', async () => {
    const { page, open, complaints, close } = await openConsole(browser, origin, client);
    await open('/vms/db1');
    await page.locator('[data-state=running]').first().waitFor();
    await daemon.stop();
    await page.getByText('The daemon can’t be reached').waitFor();
    // A part of the console that is needed now comes when the daemon is back, without losing what the page has.
    await page.evaluate('document.body.dataset.kept = "yes"');
    await page.getByRole('link', { name: 'Snapshots' }).click();
    await daemon.start();
    await page.getByRole('button', { name: 'Take a snapshot' }).waitFor();
    assert.equal(await page.locator('body').getAttribute('data-kept'), 'yes', 'the page was loaded again');
    const stop = await daemon.client.vm.forceOff({ params: { vm: 'db1' } });
    await waitForTaskEnd(daemon.client, stop.id, { timeoutMs: 60_000 });
    await page.getByText('The daemon can’t be reached').waitFor({ state: 'hidden' });
    await page.locator('[data-state=stopped]').first().waitFor();
    assert.deepEqual(otherThanRefused(complaints()), []);
    await close();
  });
});

suite('with a real guest', () => {
  test('create, boot, type into the serial console, take a snapshot, delete', async (t) => {
    await buildConsole();
    const host = await qemuDaemon(t, { config: { listen } });
    const browser = await startBrowser(t, host.namespace);
    const { page, open, complaints, close } = await openConsole(browser, origin, host.client);
    await open('/vms/new');
    await page.getByLabel('Name').first().fill('guest');
    await page.getByRole('combobox', { name: 'Image' }).click();
    await page.getByRole('option', { name: 'tiny' }).click();
    await page.getByRole('combobox', { name: 'Network' }).click();
    await page.getByRole('option', { name: 'user' }).click();
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    await page.getByRole('heading', { name: 'guest' }).waitFor();
    await page.locator('[data-state=running]').first().waitFor({ timeout: 120_000 });
    await host.untilUp('guest');

    await page.getByRole('link', { name: 'Console', exact: true }).click();
    await page.locator('[data-connection=open]').waitFor();
    const shown = page.locator('.xterm-accessibility-tree');
    // The guest's shell may still be starting: what was typed too early is typed again.
    await eventually(
      async () => {
        await page.locator('[data-console=serial]').click();
        await page.keyboard.type('\necho answer-$((6*7))\n');
        await shown.getByText('answer-42').first().waitFor({ timeout: 5000 });
        return true;
      },
      { timeoutMs: 90_000, describe: 'the guest answers on its serial console' },
    );

    await page.getByRole('link', { name: 'Snapshots' }).click();
    await page.getByRole('button', { name: 'Take a snapshot' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Name').fill('first');
    await dialog.getByLabel('With memory').check();
    await dialog.getByRole('button', { name: 'Take a snapshot' }).click();
    await page.getByRole('listitem').getByText('With memory').waitFor({ timeout: 120_000 });

    await eventually(async () => (await host.vm('guest')).status.taskId === null);
    await page.getByRole('button', { name: 'More' }).click();
    await page.getByRole('menuitem', { name: /^Delete/ }).click();
    await page.getByRole('dialog').getByLabel('Switch off first').check();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('heading', { name: 'Virtual machines', exact: true }).waitFor();
    await page.getByText('No virtual machines yet').waitFor({ timeout: 120_000 });
    assert.deepEqual(otherThanRefused(complaints()), []);
    await close();
  });
});
