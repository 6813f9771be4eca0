// Folders that a launched process is given, against the real kernel: what it may do in them, whom its files belong to
// outside, and that there is no way out of them. Needs root.
import assert from 'node:assert/strict';
import { chmod, chown, lstat, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { launchConfined, LaunchError, type LaunchFolder } from '../../src/host/launch/launch.ts';
import { MARK_VARIABLE, runMark } from '../support/mark.ts';
import { temporaryFolder } from '../support/temporary.ts';

// Ids that no user of the machine has: of the process, and of the folder's owner.
const user = 61234;
const owner = 61300;
const scriptMs = 20_000;

interface Scene {
  /** Holds `inside` of the owner's, and `other` of somebody else's. */
  folder: string;
  /** Runs a script as the user; its output, and the code it ended with. */
  run: (script: string, folder?: Partial<LaunchFolder>) => Promise<{ output: string; code: number | null }>;
}

async function scene(context: TestContext): Promise<Scene> {
  const outside = await temporaryFolder(context);
  const folder = join(outside, 'folder');
  const log = join(outside, 'output');
  await writeFile(join(outside, 'secret'), 'secret');
  await mkdir(folder);
  await chmod(folder, 0o700);
  await chown(folder, owner, owner);
  for (const [name, id, mode] of [
    ['inside', owner, 0o600],
    ['other', owner + 1, 0o644],
    ['private', owner + 1, 0o600],
  ] as const) {
    await writeFile(join(folder, name), name);
    await chown(join(folder, name), id, id);
    await chmod(join(folder, name), mode);
  }
  await symlink('../secret', join(folder, 'link'));
  await symlink('inside', join(folder, 'link-inside'));
  const run: Scene['run'] = async (script, more = {}) => {
    await writeFile(log, '');
    const launched = await launchConfined({
      argv: ['sh', '-c', script],
      uid: user,
      gid: user,
      folders: [{ path: folder, access: 'rw', at: 10, ...more }],
      stdoutPath: log,
      stderrPath: log,
      env: { [MARK_VARIABLE]: runMark() },
    });
    const timer = setTimeout(() => process.kill(-launched.pid, 'SIGKILL'), scriptMs);
    const { code } = await launched.exited;
    clearTimeout(timer);
    return { output: await readFile(log, 'utf8'), code };
  };
  return { folder, run };
}

test('what belongs to the folder’s owner belongs to the user of the process in it, and what it makes to the owner', async (context) => {
  const { folder, run } = await scene(context);
  const { output, code } = await run(
    'cd /proc/self/fd/10/ && cat inside && stat -c " %u %g %n" . inside other && echo new > new && mkdir sub && echo more >> inside',
  );
  assert.equal(code, 0, output);
  assert.deepEqual(output.split('\n').slice(0, 3), [
    `inside ${user} ${user} .`,
    ` ${user} ${user} inside`,
    ' 65534 65534 other',
  ]);
  for (const name of ['new', 'sub', 'inside']) {
    const { uid, gid } = await lstat(join(folder, name));
    assert.deepEqual([uid, gid], [owner, owner], name);
  }
  assert.equal(await readFile(join(folder, 'inside'), 'utf8'), 'insidemore\n');
});

test('what belongs to others keeps their permissions, and nobody follows a link or leaves the folder', async (context) => {
  const { run } = await scene(context);
  const refused = [
    'cat private',
    'echo x >> other',
    'chmod 666 other',
    'chown 0 inside',
    'cat link',
    'cat link-inside',
    'cat ../secret',
    'cat ../../secret',
  ];
  const script = refused.map((line) => `{ ${line}; } 2>/dev/null && echo "done: ${line}"`).join('\n');
  const { output } = await run(`cd /proc/self/fd/10/ && cat other && echo && readlink link\n${script}\ntrue`);
  assert.equal(output, 'other\n../secret\n');
});

test('a folder that is given for reading can not be written to, its owner’s files neither', async (context) => {
  const { folder, run } = await scene(context);
  const script = ['echo x > new', 'echo x >> inside', 'rm inside', 'chmod 777 inside', 'mkdir sub']
    .map((line) => `{ ${line}; } 2>/dev/null && echo "done: ${line}"`)
    .join('\n');
  const { output } = await run(`cd /proc/self/fd/10/ && cat inside\n${script}\ntrue`, { access: 'ro' });
  assert.equal(output, 'inside');
  assert.equal(await readFile(join(folder, 'inside'), 'utf8'), 'inside');
});

test('a folder can be mounted where only the process sees it', async (context) => {
  const { run } = await scene(context);
  const before = await readFile('/proc/self/mountinfo', 'utf8');
  const { output, code } = await run('cat /mnt/inside && touch /mnt/made && grep -c " /mnt " /proc/self/mountinfo', {
    at: '/mnt',
  });
  assert.equal(code, 0, output);
  assert.match(output, /^inside\d+\n$/);
  assert.equal(await readFile('/proc/self/mountinfo', 'utf8'), before);
});

test('what is mounted below a folder is not in it', async (context) => {
  const { run } = await scene(context);
  // Every machine has /proc mounted in its root folder.
  const { output, code } = await run('ls -A /proc/self/fd/10/proc', { path: '/', access: 'ro' });
  assert.deepEqual({ output, code }, { output: '', code: 0 });
});

for (const [what, folder, code] of [
  ['a path with a symbolic link in it', 'link-folder/inner', 'ELOOP'],
  ['a file', 'inside', 'ENOTDIR'],
  ['a folder that is not there', 'missing', 'ENOENT'],
] as const) {
  test(`${what} is refused`, async (context) => {
    const scenery = await scene(context);
    await mkdir(join(scenery.folder, 'real/inner'), { recursive: true });
    await symlink('real', join(scenery.folder, 'link-folder'));
    await assert.rejects(
      scenery.run('true', { path: join(scenery.folder, folder) }),
      (error: unknown) => error instanceof LaunchError && error.step === 'folder' && error.code === code,
    );
  });
}

test('a folder of root’s is refused for writing, and can be read', async (context) => {
  const { folder, run } = await scene(context);
  await chown(folder, 0, 0);
  await assert.rejects(
    run('true'),
    (error: unknown) => error instanceof LaunchError && error.step === 'folder' && error.code === 'EPERM',
  );
  const { output } = await run('ls /proc/self/fd/10/inside', { access: 'ro' });
  assert.equal(output, '/proc/self/fd/10/inside\n');
});
