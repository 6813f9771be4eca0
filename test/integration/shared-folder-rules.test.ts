// Which folders may be shared, on a real file system with links in it.
import assert from 'node:assert/strict';
import { chown, mkdir, realpath, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { findSharedFolder, SharedFolderError } from '../../src/host/shared-folder.ts';
import { temporaryFolder } from '../support/temporary.ts';

const owner = 61300;

/** `root` is allowed and holds `data` of an ordinary user's; `lodge` is Lodge's own, with `shared` in it. */
async function world(context: TestContext): Promise<{ base: string; root: string; data: string; lodge: string }> {
  const base = await realpath(await temporaryFolder(context));
  const [root, lodge] = [join(base, 'root'), join(base, 'lodge')];
  const data = join(root, 'data');
  for (const folder of [data, join(lodge, 'shared/inner'), join(base, 'root-of-others')])
    await mkdir(folder, { recursive: true });
  for (const folder of [data, join(lodge, 'shared/inner'), lodge, root, base]) await chown(folder, owner, owner);
  await writeFile(join(root, 'file'), '');
  return { base, root, data, lodge };
}

async function problem(
  path: string,
  allowedRoots: string[],
  forbidden: string[] = [],
  isReadOnly = false,
): Promise<string> {
  return findSharedFolder(path, { allowedRoots, forbidden }, isReadOnly).catch((error: unknown) => {
    assert.ok(error instanceof SharedFolderError, String(error));
    return error.problem;
  });
}

test('a folder in an allowed one may be shared, and that one itself', async (context) => {
  const { root, data } = await world(context);
  assert.equal(await problem(data, [root]), data);
  assert.equal(await problem(`${data}/../data/`, [root]), data);
  assert.equal(await problem(root, [root]), root);
});

test('what is outside may not, by whatever way one comes there', async (context) => {
  const { base, root } = await world(context);
  await symlink('/etc', join(root, 'link'));
  for (const path of ['/etc', '/', join(root, '..'), join(base, 'root-of-others'), join(root, 'link')])
    assert.equal(await problem(path, [root]), 'not-allowed', path);
  assert.equal(await problem(root, []), 'not-allowed');
  assert.equal(await problem('/nowhere', [root]), 'not-allowed', 'nobody learns what exists');
});

test('a link is followed to where it leads, and so is an allowed root', async (context) => {
  const { base, root, data } = await world(context);
  await symlink(data, join(root, 'inner-link'));
  await symlink(root, join(base, 'root-link'));
  assert.equal(await problem(join(root, 'inner-link'), [root]), data);
  assert.equal(await problem(data, [join(base, 'root-link')]), data);
});

test('nothing of Lodge’s own may be shared, but what it has set apart for that', async (context) => {
  const { base, root, lodge } = await world(context);
  assert.equal(await problem(lodge, [base], [lodge]), 'own-data');
  assert.equal(await problem(base, [base], [lodge]), 'own-data', 'what holds it');
  assert.equal(await problem(join(lodge, 'shared/inner'), [base], [lodge]), 'own-data');
  const shared = join(lodge, 'shared');
  assert.equal(await problem(join(shared, 'inner'), [base, shared], [lodge]), join(shared, 'inner'));
  assert.equal(await problem(join(root, 'data'), [base, shared], [lodge]), join(root, 'data'));
});

test('what is no folder, not there or root’s is told apart', async (context) => {
  const { root } = await world(context);
  assert.equal(await problem(join(root, 'missing'), [root]), 'missing');
  assert.equal(await problem(join(root, 'file'), [root]), 'no-folder');
  assert.equal(await problem(join(root, 'file/below'), [root]), 'no-folder');
  await mkdir(join(root, 'of-root'));
  assert.equal(await problem(join(root, 'of-root'), [root]), 'of-root');
  assert.equal(await problem(join(root, 'of-root'), [root], [], true), join(root, 'of-root'), 'it may be read');
});
