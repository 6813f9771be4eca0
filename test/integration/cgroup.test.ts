// Control groups of the machine the tests run on, whichever version it has. Needs root. Every test makes a root of its
// own, and everything in it is killed and removed at its end.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rmdir } from 'node:fs/promises';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { CgroupError } from '../../src/host/cgroup-group.ts';
import { run } from '../../src/host/command.ts';
import { openCgroupTree, readCgroupLayout, type CgroupTree, type CgroupTreeOptions } from '../../src/host/cgroup.ts';
import { identifyProcess, isAlive } from '../../src/host/process.ts';

let serial = 0;

async function openTree(t: TestContext, options: CgroupTreeOptions = {}): Promise<CgroupTree> {
  serial += 1;
  const tree = await openCgroupTree({ name: `lodge-test-${process.pid}-${serial}`, ...options });
  t.after(async () => {
    for (const group of await tree.listGroups()) {
      await group.killAll();
      await group.remove();
    }
    await tree.removeRootIfEmpty();
  });
  return tree;
}

function start(t: TestContext, ...argv: [string, ...string[]]): ChildProcess & { pid: number } {
  const child = spawn(argv[0], argv.slice(1), { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  assert.ok(child.pid);
  return child as ChildProcess & { pid: number };
}

async function until(what: string, isDone: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await isDone())) {
    assert.ok(performance.now() < deadline, `${what} did not happen within 10 s`);
    await delay(10);
  }
}

test('a process put into a group is in each of its folders, and is counted and ended there', async (t) => {
  const tree = await openTree(t);
  assert.ok(tree.controllers.length > 0, JSON.stringify(tree.missing));
  const { group } = await tree.createGroup('web1');
  const child = start(t, 'sleep', '1000');
  const exit = once(child, 'exit');
  await group.join([child.pid]);
  for (const file of group.processFiles) assert.equal((await readFile(file, 'utf8')).trim(), String(child.pid), file);
  assert.deepEqual(await group.processes(), [child.pid]);
  const usage = await group.readUsage();
  if (tree.controllers.includes('pids')) assert.equal(usage.pids, 1);
  if (tree.controllers.includes('memory')) assert.equal(usage.oomKills, 0);
  assert.deepEqual(
    (await tree.listGroups()).map((each) => each.name),
    ['web1'],
  );

  await assert.rejects(group.remove({ timeoutMs: 20 }), (error: CgroupError) => {
    assert.match(error.message, new RegExp(`can't be removed within 20 ms: processes ${child.pid} are in it`));
    return true;
  });
  await group.killAll();
  await exit;
  assert.deepEqual(await group.processes(), []);
  await group.remove();
  assert.equal(await group.exists(), false);
  await group.remove();
  assert.deepEqual(await tree.listGroups(), []);
});

test('a launcher that writes 0 into the process files is in the group before it becomes the program', async (t) => {
  const tree = await openTree(t);
  const { group } = await tree.createGroup('launched');
  const script = 'for file in "$@"; do echo 0 > "$file"; done; exec sleep 1000';
  const child = start(t, 'sh', '-c', script, 'sh', ...group.processFiles);
  await until('exec', async () => (await readFile(`/proc/${child.pid}/comm`, 'utf8')) === 'sleep\n');
  assert.deepEqual(await group.processes(), [child.pid]);
});

test('limits are written and hold: processor time', async (t) => {
  const tree = await openTree(t);
  if (!tree.controllers.includes('cpu')) {
    const { limits } = await tree.createGroup('slow', { cpuMaxProcessors: 0.1 });
    assert.equal(limits.unapplied[0]?.limit, 'cpuMaxProcessors');
    return;
  }
  const { group, limits } = await tree.createGroup('slow', { cpuMaxProcessors: 0.1, cpuWeight: 50 });
  assert.deepEqual(limits, { applied: ['cpuWeight', 'cpuMaxProcessors'], unapplied: [] });
  const child = start(t, 'sh', '-c', 'while :; do :; done');
  await group.join([child.pid]);
  await until('throttling', async () => ((await group.readUsage()).cpuThrottledMicroseconds ?? 0) > 0);
  assert.ok(((await group.readUsage()).cpuMicroseconds ?? 0) > 0);
  assert.deepEqual((await group.setLimits({ cpuMaxProcessors: null })).applied, ['cpuMaxProcessors']);
});

test('limits are written and hold: a process over its memory is ended and counted', async (t) => {
  const tree = await openTree(t);
  if (!tree.controllers.includes('memory')) return;
  const { group } = await tree.createGroup('small', { memoryMaxBytes: 32 * 1024 * 1024, memorySwapMaxBytes: 0 });
  const [file] = group.processFiles.filter((name) => tree.kind === 'v2' || name.includes('memory'));
  assert.ok(file);
  const script = 'echo 0 > "$1"; exec dd if=/dev/zero of=/dev/null bs=200M count=1';
  const child = start(t, 'sh', '-c', script, 'sh', file);
  const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
  assert.equal(signal, 'SIGKILL');
  const usage = await group.readUsage();
  assert.equal(usage.oomKills, 1);
  assert.ok((usage.memoryPeakBytes ?? 0) > 16 * 1024 * 1024);
});

test('memory under what is in use is refused and ends nothing', async (t) => {
  const tree = await openTree(t);
  if (!tree.controllers.includes('memory')) return;
  const { group } = await tree.createGroup('full');
  const [file] = group.processFiles.filter((name) => tree.kind === 'v2' || name.includes('memory'));
  assert.ok(file);
  const script = 'echo 0 > "$1"; exec perl -e \'$x = "x" x 64_000_000; sleep 1000\'';
  const child = start(t, 'sh', '-c', script, 'sh', file);
  await until('use', async () => ((await group.readUsage()).memoryBytes ?? 0) > 60_000_000);
  const swap = (await readFile('/proc/swaps', 'utf8')).trim().split('\n').length - 1;
  if (swap === 0) {
    await assert.rejects(
      group.setLimits({ memoryMaxBytes: 8 * 1024 * 1024 }),
      /memoryMaxBytes of the group full can't be/,
    );
  }
  assert.equal(child.exitCode, null);
  assert.deepEqual(await group.processes(), [child.pid]);
  assert.equal((await group.readUsage()).oomKills, 0);
});

test('the number of processes is limited', async (t) => {
  const tree = await openTree(t);
  if (!tree.controllers.includes('pids')) return;
  const { group } = await tree.createGroup('few', { pidsMax: 1 });
  const script = 'for file in "$@"; do echo 0 > "$file"; done; sleep 0.01 & wait; exit 0';
  const child = start(t, 'sh', '-c', script, 'sh', ...group.processFiles);
  const [code] = (await once(child, 'exit')) as [number | null];
  assert.notEqual(code, 0);
});

test('a frozen group stands still, and can be ended all the same', async (t) => {
  const tree = await openTree(t);
  const { group } = await tree.createGroup('ice');
  const child = start(t, 'sh', '-c', 'while :; do :; done');
  const exit = once(child, 'exit');
  await group.join([child.pid]);
  await group.freeze();
  assert.equal(await group.isFrozen(), true);
  await group.thaw();
  assert.equal(await group.isFrozen(), false);
  await group.freeze();
  await group.killAll();
  await exit;
});

test('processes below a group of the group are ended and removed with it', async (t) => {
  const tree = await openTree(t);
  const { group } = await tree.createGroup('outer');
  const inner = tree.groupAt(group.directories.map((directory) => `${directory}/inner`));
  assert.ok(inner);
  await inner.create();
  const child = start(t, 'sleep', '1000');
  await inner.join([child.pid]);
  assert.deepEqual(await group.processes(), [child.pid]);
  await group.killAll();
  await group.remove();
  assert.equal(await inner.exists(), false);
});

test('a group is found again by its folders under another root', async (t) => {
  const first = await openTree(t);
  const { group } = await first.createGroup('kept');
  const second = await openTree(t);
  const again = second.groupAt(group.directories);
  assert.deepEqual(again?.directories, group.directories);
  assert.equal(await again?.exists(), true);
  assert.equal(second.groupAt(['/etc/passwd', `${group.directories[0]}/../../x`]), null);
});

test('a process that has ended, a group that is gone and a bad name each give one clear error', async (t) => {
  const tree = await openTree(t);
  const { group } = await tree.createGroup('gone');
  const child = start(t, 'true');
  await once(child, 'exit');
  await assert.rejects(group.join([child.pid]), /can't be put into the group gone .*: no such process/);
  await group.remove();
  await assert.rejects(group.join([process.pid]), /there is no such group/);
  assert.throws(() => tree.group('../x'), CgroupError);
  await assert.rejects(tree.createGroup('bad', { cpuWeight: 0 }), RangeError);
  assert.equal(await tree.group('bad').exists(), false);
});

test('a machine without control groups, or without ours, still works and says what is missing', async (t) => {
  const none = await openTree(t, { layout: { kind: 'none', mounts: [] } });
  assert.equal(none.missing.length, 6);
  assert.match(none.missing[0]?.reason ?? '', /no control groups are mounted/);
  const { group, limits } = await none.createGroup('bare', { cpuWeight: 100, memoryMaxBytes: 1 << 30 });
  assert.deepEqual(
    limits.unapplied.map((entry) => entry.limit),
    ['cpuWeight', 'memoryMaxBytes'],
  );
  assert.deepEqual(group.directories, []);
  assert.deepEqual(await group.processes(), []);
  assert.equal((await group.readUsage()).cpuMicroseconds, null);
  await group.killAll();
  await group.remove();
});

test('a hierarchy of version 2 without our controllers still groups, freezes, measures and ends processes', async (t) => {
  const unified = (await readCgroupLayout()).mounts.find((mount) => mount.version === 2);
  if (!unified) {
    assert.equal((await readCgroupLayout()).kind, 'v1', 'only a machine of version 1 has no hierarchy of version 2');
    return;
  }
  const tree = await openTree(t, { layout: { kind: 'v2', mounts: [{ ...unified, kernelControllers: [] }] } });
  assert.deepEqual(tree.controllers, ['freezer']);
  const { group, limits } = await tree.createGroup('v2', { pidsMax: 5 });
  assert.match(limits.unapplied[0]?.reason ?? '', /no mounted hierarchy of control groups has the pids controller/);
  const child = start(t, 'sh', '-c', 'while :; do :; done');
  await group.join([child.pid]);
  await until('measuring', async () => ((await group.readUsage()).cpuMicroseconds ?? 0) > 0);
  await group.freeze();
  assert.equal(await group.isFrozen(), true);
  const identity = identifyProcess(child.pid);
  assert.ok(identity);
  await group.killAll();
  await until('the end', async () => !isAlive(identity));
  await group.remove();
});

test('a controller that is not handed on is missing with a reason, and the others work', async (t) => {
  const unified = (await readCgroupLayout()).mounts.find((mount) => mount.version === 2);
  if (!unified) return;
  // The kernel is asked for controllers that this hierarchy may not have.
  const layout = { kind: 'v2' as const, mounts: [{ ...unified, kernelControllers: ['memory', 'pids'] }] };
  const tree = await openTree(t, { layout });
  const has = new Set((await readFile(`${unified.mountPoint}/cgroup.controllers`, 'utf8')).trim().split(' '));
  for (const controller of ['memory', 'pids'] as const) {
    if (has.has(controller)) continue;
    const entry = tree.missing.find((candidate) => candidate.controller === controller);
    assert.match(entry?.reason ?? '', new RegExp(`the controller ${controller} is not handed on to`));
  }
  assert.ok(tree.controllers.includes('freezer'));
});

test('in version 2 a daemon that is in a group with its neighbours makes room, and then has its controllers', async (t) => {
  const layout = await readCgroupLayout();
  const [mount] = layout.mounts;
  if (layout.kind !== 'v2' || !mount) return t.diagnostic(`control groups are ${layout.kind} here`);
  const box = `${mount.mountPoint}/lodge-test-box-${process.pid}`;
  await mkdir(box);
  t.after(async () => {
    for (const name of ['/lodge/web1', '/lodge', '/daemon']) await rmdir(`${box}${name}`).catch(() => {});
    await rmdir(box);
  });
  const module = new URL('../../src/host/cgroup.ts', import.meta.url).href;
  const program = `
    import { openCgroupTree } from ${JSON.stringify(module)};
    const tree = await openCgroupTree();
    const { group } = await tree.createGroup('web1', { pidsMax: 10 });
    const child = (await import('node:child_process')).spawn('sleep', ['1000']);
    await group.join([child.pid]);
    const again = await openCgroupTree();
    console.log(JSON.stringify({ roots: tree.rootDirectories, again: again.rootDirectories, controllers: tree.controllers, missing: tree.missing }));
    await group.killAll();
    await group.remove();
    process.exit(0);
  `;
  // A neighbour, and the daemon.
  const script = 'echo 0 > "$1"; sleep 1000 & "$2" --input-type=module --eval "$3"; kill $!; wait';
  const { stdout } = await run(['sh', '-c', script, 'sh', `${box}/cgroup.procs`, process.execPath, program]);
  const seen = JSON.parse(stdout) as { roots: string[]; again: string[]; controllers: string[]; missing: unknown[] };
  assert.deepEqual(seen.roots, [`${box}/lodge`]);
  assert.deepEqual(seen.again, seen.roots);
  assert.ok(seen.controllers.includes('pids') && seen.controllers.includes('memory'), stdout);
});
