// The command `lodge`: the launcher finds its clone from anywhere, and its link in PATH never replaces what is not Lodge's.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFile, mkdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { CommandError, run } from '../../src/host/command.ts';
import { linkLauncher } from '../../tools/launcher.ts';
import { temporaryFolder } from '../support/temporary.ts';

/** A clone with the launcher and a command line that tells how it was called. */
async function clone(t: TestContext, program: string): Promise<{ folder: string; launcher: string }> {
  const folder = await temporaryFolder(t);
  for (const path of ['bin', 'src/cli', 'node_modules/.bin']) await mkdir(join(folder, path), { recursive: true });
  const launcher = join(folder, 'bin/lodge');
  await copyFile(join(import.meta.dirname, '../../bin/lodge'), launcher);
  await symlink(process.execPath, join(folder, 'node_modules/.bin/node'));
  await writeFile(join(folder, 'src/cli/main.ts'), program);
  return { folder, launcher };
}

test('it runs from any folder, through links to links, with arguments and exit code as they are', async (t) => {
  const { folder, launcher } = await clone(
    t,
    `console.log(JSON.stringify(process.argv.slice(2))); process.exitCode = 7;`,
  );
  await symlink(launcher, join(folder, 'first'));
  await symlink('first', join(folder, 'second'));
  const { stdout, exitCode } = await run([join(folder, 'second'), 'vm', 'a b', '', '--x=*'], {
    cwd: '/',
    okExitCodes: [7],
  });
  assert.equal(exitCode, 7);
  assert.deepEqual(JSON.parse(stdout), ['vm', 'a b', '', '--x=*']);
});

test('signals reach the command line itself', async (t) => {
  const { launcher } = await clone(
    t,
    `process.on('SIGTERM', () => process.exit(42)); console.log('ready'); setInterval(() => {}, 1000);`,
  );
  const child = spawn(launcher, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  child.kill('SIGTERM');
  assert.deepEqual(await once(child, 'exit'), [42, null]);
});

test('without Node 24 in its clone it says how to get it', async (t) => {
  const folder = await temporaryFolder(t);
  await mkdir(join(folder, 'bin'));
  await copyFile(join(import.meta.dirname, '../../bin/lodge'), join(folder, 'bin/lodge'));
  await assert.rejects(run([join(folder, 'bin/lodge')]), (error: unknown) => {
    assert.ok(error instanceof CommandError);
    assert.match(error.stderr, /Run "npm start" in \/tmp\/.* once/);
    return true;
  });
});

test('the link is made where nothing is, and a second time left alone', async (t) => {
  const { folder, launcher } = await clone(t, '');
  const path = join(folder, 'lodge');
  assert.deepEqual(await linkLauncher(launcher, path), { outcome: 'linked', instead: null });
  assert.equal(await readlink(path), launcher);
  assert.deepEqual(await linkLauncher(launcher, path), { outcome: 'there' });
});

test('a link to a clone that is gone, or to another clone, is moved to this one', async (t) => {
  const { folder, launcher } = await clone(t, '');
  const other = await clone(t, '');
  const path = join(folder, 'lodge');
  for (const before of ['/nowhere/at/all', other.launcher]) {
    await symlink(before, join(folder, 'old'));
    await run(['mv', '--no-target-directory', join(folder, 'old'), path]);
    assert.deepEqual(await linkLauncher(launcher, path), { outcome: 'linked', instead: before });
    assert.equal(await readlink(path), launcher);
  }
});

test('another program’s file or link is never replaced', async (t) => {
  const { folder, launcher } = await clone(t, '');
  const file = join(folder, 'lodge');
  await writeFile(file, 'mine');
  assert.equal((await linkLauncher(launcher, file)).outcome, 'refused');
  assert.equal(await readFile(file, 'utf8'), 'mine');
  const link = join(folder, 'lodge-link');
  await symlink(file, link);
  assert.equal((await linkLauncher(launcher, link)).outcome, 'refused');
  assert.equal(await readlink(link), file);
});
