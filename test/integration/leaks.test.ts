// The search for what tests leave behind finds each kind of thing that bears a run's mark, and removes it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { test, type TestContext } from 'node:test';
import { run } from '../../src/host/command.ts';
import { findLeaks, readSystemState, removeLeaks } from '../support/leaks.ts';
import { MARK_VARIABLE, markedFolder, newMark } from '../support/mark.ts';

/** Makes something, expects it to be found as this kind, and to be gone after the removal. */
async function expectLeak(t: TestContext, mark: string, kind: string, make: () => Promise<unknown>): Promise<void> {
  const before = await readSystemState();
  t.after(async () => {
    await removeLeaks(await findLeaks(mark, before));
  });
  assert.deepEqual(await markedLeaks(mark, before), []);
  await make();
  assert.ok((await markedLeaks(mark, before)).includes(kind), `no ${kind} among the leaks`);
  assert.deepEqual(await removeLeaks(await findLeaks(mark, before)), []);
  assert.deepEqual(await markedLeaks(mark, before), []);
}

async function markedLeaks(mark: string, before: Awaited<ReturnType<typeof readSystemState>>): Promise<string[]> {
  return (await findLeaks(mark, before)).filter(({ isMarked }) => isMarked).map(({ kind }) => kind);
}

test('a process is found by the mark in its environment', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'process', async () => {
    await once(spawn('sleep', ['600'], { env: { [MARK_VARIABLE]: mark, PATH: process.env['PATH'] } }), 'spawn');
  });
});

test('a process without the mark in its environment is found by the files it names', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'process', async () => {
    const argv = ['-f', '/dev/null', '--', `${markedFolder(mark)}/x/disk.qcow2`];
    await once(spawn('tail', argv, { env: { PATH: process.env['PATH'] }, stdio: 'ignore' }), 'spawn');
  });
});

test('a process that names nothing is found by the folder it works in', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'process', async () => {
    await mkdir(markedFolder(mark));
    const options = { env: { PATH: process.env['PATH'] }, cwd: markedFolder(mark) };
    await once(spawn('sleep', ['600'], options), 'spawn');
  });
});

test('a process that names nothing is found by its cgroup, and the group goes with it', async (t) => {
  const mark = newMark();
  const root = (await readdir('/sys/fs/cgroup')).includes('pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup';
  await expectLeak(t, mark, 'process', async () => {
    await mkdir(`${root}/lodge-${mark}`);
    const child = spawn('sleep', ['600'], { env: { PATH: process.env['PATH'] }, cwd: '/' });
    await once(child, 'spawn');
    await writeFile(`${root}/lodge-${mark}/cgroup.procs`, String(child.pid));
  });
});

test('a link is found', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'link', () => run(['ip', 'link', 'add', `lg${mark}0`, 'type', 'bridge']));
});

test('a network namespace is found', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'namespace', () => run(['ip', 'netns', 'add', `lodge-${mark}x`]));
});

test('an nftables table is found', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'nft table', () => run(['nft', 'add', 'table', 'inet', `lodge_${mark}`]));
});

test('a mount is found, and the folder below it', async (t) => {
  const mark = newMark();
  await expectLeak(t, mark, 'mount', async () => {
    await mkdir(`${markedFolder(mark)}/m o`, { recursive: true });
    await run(['mount', '-t', 'tmpfs', 'none', `${markedFolder(mark)}/m o`]);
  });
});

test('a cgroup with a group inside is found', async (t) => {
  const mark = newMark();
  const root = (await readdir('/sys/fs/cgroup')).includes('memory') ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
  await expectLeak(t, mark, 'cgroup', () => mkdir(`${root}/lodge-${mark}/vm`, { recursive: true }));
});

test('what looks like Lodge’s but bears no mark is reported when it is new, and never removed', async (t) => {
  const mark = newMark();
  const before = await readSystemState();
  const name = `lodge-other-${newMark()}`;
  await run(['ip', 'netns', 'add', name]);
  t.after(() => run(['ip', 'netns', 'delete', name]));
  const leaks = await findLeaks(mark, before);
  assert.equal(leaks.find((leak) => leak.name === name)?.isMarked, false);
  await removeLeaks(leaks);
  assert.ok((await readdir('/run/netns')).includes(name));
  const later = await findLeaks(mark, await readSystemState());
  assert.equal(
    later.find((leak) => leak.name === name),
    undefined,
  );
});
