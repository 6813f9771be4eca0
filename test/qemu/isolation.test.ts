// A running QEMU as the kernel sees it: what it may do, what it holds, who may look at its files; and that the daemon does
// not follow what a QEMU that was taken over puts in its folder.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, lstat, readdir, readFile, readlink, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { type Guest, type GuestDefinition } from '../../src/drivers/driver.ts';
import { type QemuDriver } from '../../src/drivers/qemu/qemu-driver.ts';
import { run } from '../../src/host/command.ts';
import { createVolume } from '../../src/host/image/volume.ts';
import { atEnd, type Cleanup } from '../support/cleanup.ts';
import { defineTiny, driverHost, groupsOf, tracesOf, type DriverHost } from '../support/qemu-guest.ts';
import { eventually } from '../support/wait.ts';

interface Started {
  host: DriverHost;
  driver: QemuDriver;
  guest: Guest;
  definition: GuestDefinition;
}

async function start(test: Cleanup, host: DriverHost, change: Partial<GuestDefinition> = {}): Promise<Started> {
  const driver = host.openDriver();
  atEnd(test, () => driver.close());
  const definition = await defineTiny(host, {}, change);
  const guest = await driver.start(definition);
  atEnd(test, () => guest.end());
  return { host, driver, guest, definition };
}

async function statusOf(pid: number): Promise<Map<string, string>> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  return new Map(text.split('\n').map((line) => line.split(/:\s*/, 2) as [string, string]));
}

/** Runs a program as a VM's user, as what has taken its QEMU over would. */
async function asUser(uid: number, argv: readonly string[]): Promise<{ exitCode: number; stderr: string }> {
  const identity = ['--reuid', String(uid), '--regid', String(uid), '--clear-groups'];
  return run(['setpriv', ...identity, '--no-new-privs', '--bounding-set=-all', ...argv], { okExitCodes: [0, 1, 2] });
}

test('QEMU has no right that it does not need', async (context) => {
  const host = await driverHost(context);
  const { guest, definition } = await start(context, host);
  const pid = guest.pid!;
  const status = await statusOf(pid);
  const { uid } = definition;
  assert.deepEqual(status.get('Uid')?.split('\t').map(Number), [uid, uid, uid, uid]);
  assert.deepEqual(status.get('Gid')?.split('\t').map(Number), [uid, uid, uid, uid]);
  assert.equal(status.get('Groups')?.trim(), '');
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
    assert.equal(BigInt(`0x${status.get(set)}`), 0n, `${set} is empty`);
  assert.equal(status.get('NoNewPrivs'), '1');
  assert.equal(status.get('Seccomp'), '2', 'a filter decides about its system calls');

  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
  const [, , group, session, terminal] = fields.map(Number);
  assert.equal(session, pid, 'it leads a session of its own');
  assert.equal(group, pid);
  assert.equal(terminal, 0, 'it has no terminal');

  // Threads could differ from the process.
  for (const tid of await readdir(`/proc/${pid}/task`)) {
    const thread = await readFile(`/proc/${pid}/task/${tid}/status`, 'utf8');
    assert.match(thread, /^Seccomp:\t2$/m);
    assert.match(thread, /^CapEff:\t0+$/m);
  }
  assert.ok(Number(await readFile(`/proc/${pid}/oom_score_adj`, 'utf8')) >= 200);
  const limits = await readFile(`/proc/${pid}/limits`, 'utf8');
  assert.match(limits, /^Max core file size +0 +0 /m);
  const environment = (await readFile(`/proc/${pid}/environ`, 'latin1')).split('\0').filter(Boolean);
  assert.deepEqual(
    new Set(environment.map((line) => line.split('=')[0])),
    new Set(['LC_ALL', 'LODGE_VM', 'PATH']),
    'nothing of the daemon’s environment is passed on',
  );
});

test('each QEMU is in a control group of its own, which is gone after it', async (context) => {
  const host = await driverHost(context);
  const { guest, definition } = await start(context, host);
  const folders = await groupsOf(definition.id);
  assert.ok(folders.length > 0, 'there are groups');
  for (const folder of folders) {
    const pids = (await readFile(join(folder, 'cgroup.procs'), 'utf8')).split('\n').filter(Boolean).map(Number);
    assert.deepEqual(pids, [guest.pid], folder);
  }
  const paths = (await readFile(`/proc/${guest.pid}/cgroup`, 'utf8'))
    .split('\n')
    .filter((line) => line.endsWith(`/${host.instance}/${definition.id}`));
  assert.equal(paths.length, folders.length);
  await guest.end();
  assert.deepEqual(await groupsOf(definition.id), []);
});

test('QEMU holds just the descriptors that it was given, and its own', async (context) => {
  const host = await driverHost(context);
  const path = join(host.folder, 'disk.qcow2');
  await createVolume({ path, format: 'qcow2', sizeBytes: 1024 ** 2 });
  const { guest, definition } = await start(context, host, {
    disks: [
      {
        name: 'root',
        device: 'disk',
        bus: 'virtio',
        cache: 'writeback',
        isReadOnly: false,
        layers: [{ path, format: 'qcow2' }],
      },
    ],
  });
  const folder = `/proc/${guest.pid}/fd`;
  const targets = await Promise.all(
    (await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => '(closed meanwhile)')),
  );
  const mine = `${definition.directory}/`;
  const allowed = [
    /^\(closed meanwhile\)$/,
    /^anon_inode:\[?(eventfd|eventpoll|signalfd|io_uring|timerfd)\]?$/,
    /^(socket|pipe):\[\d+\]$/,
    /^\/dev\/(null|urandom|random)$/,
    /^\/memfd:/,
    // Its block layer duplicates the descriptor of a disk, its kernel's files stay open.
    new RegExp(`^${path}$`),
    new RegExp(`^${definition.kernel!.kernelPath}$`),
    new RegExp(`^${definition.kernel!.initramfsPath}$`),
    new RegExp(`^${mine}qemu\\.log$`),
    new RegExp(`^${mine}qemu/serial\\.log$`),
  ];
  const others = targets.filter((target) => !allowed.some((pattern) => pattern.test(target)));
  assert.deepEqual(others, []);
  assert.ok(targets.includes(path));
  for (const socket of targets.filter((target) => target.startsWith('socket:')))
    assert.ok(await isUnixSocket(socket), `${socket} is a unix socket`);
});

/** Whether a `socket:[inode]` is listed among the unix sockets. */
async function isUnixSocket(target: string): Promise<boolean> {
  const inode = /\d+/.exec(target)![0];
  return (await readFile('/proc/net/unix', 'utf8')).split('\n').some((line) => line.split(/\s+/)[6] === inode);
}

test('a VM’s user reaches its own folder and no other', async (context) => {
  const host = await driverHost(context);
  const one = await start(context, host);
  const other = await start(context, host);
  assert.notEqual(one.definition.uid, other.definition.uid);
  const log = (definition: GuestDefinition): string => join(definition.directory, 'qemu/serial.log');
  await eventually(() => existsSync(log(one.definition)));
  assert.equal((await asUser(one.definition.uid, ['test', '-r', log(one.definition)])).exitCode, 0);
  const forbidden = [
    log(other.definition),
    join(other.definition.directory, 'qemu/qmp.sock'),
    join(other.definition.directory, 'qemu.log'),
    // Of its own, what the daemon opens with root's rights.
    join(one.definition.directory, 'qemu.log'),
  ];
  for (const path of forbidden) {
    assert.equal((await asUser(one.definition.uid, ['test', '-r', path])).exitCode, 1, `${path} can be read`);
    assert.equal((await asUser(one.definition.uid, ['test', '-w', path])).exitCode, 1, `${path} can be written`);
  }
  // It can't put anything where the daemon opens files for it.
  for (const folder of [one.definition.directory, host.folder])
    assert.equal((await asUser(one.definition.uid, ['test', '-w', folder])).exitCode, 1, `${folder} can be written`);
  const signal = await asUser(one.definition.uid, ['kill', '-0', String(other.guest.pid)]);
  assert.notEqual(signal.exitCode, 0, 'nor signal another’s process');
});

test('what the VM’s user plants in its folder is not followed', async (context) => {
  const host = await driverHost(context);
  const secret = join(host.folder, 'secret');
  const words = randomBytes(16).toString('hex');
  await writeFile(secret, words, { mode: 0o600 });
  const { guest, driver, definition } = await start(context, host);
  const { uid } = definition;
  const inWork = (name: string): string => join(definition.directory, 'qemu', name);
  const plant = async (name: string, how: 'symlink' | 'pipe' | 'folder'): Promise<void> => {
    await run(['rm', '-rf', inWork(name)]);
    const argv = { symlink: ['ln', '-s', secret], pipe: ['mkfifo'], folder: ['mkdir'] }[how];
    assert.equal((await asUser(uid, [...argv, inWork(name)])).exitCode, 0);
  };
  const refuses = async (call: Promise<unknown>): Promise<void> => {
    const outcome = await call.then(
      (value) => Buffer.from(value as Uint8Array).toString('latin1'),
      (error: unknown) => error,
    );
    assert.ok(outcome instanceof LodgeError || outcome === '', `it answered ${JSON.stringify(outcome)}`);
  };

  for (const how of ['symlink', 'pipe', 'folder'] as const) {
    await plant('serial.log', how);
    await refuses(driver.serialLog(definition, 1000));
  }
  // A second name of a file that root owns: the kernel's protected_hardlinks may be off, so root plants it here.
  await run(['rm', '-rf', inWork('serial.log')]);
  await link(secret, inWork('serial.log'));
  await refuses(driver.serialLog(definition, 1000));

  for (const how of ['symlink', 'pipe'] as const) {
    await plant('screenshot.ppm', how);
    await refuses(guest.screenshot());
  }

  await plant('memory.state', 'symlink');
  await guest.suspend({});
  assert.equal(await readFile(secret, 'utf8'), words, 'saving does not write through the link');
  const state = await lstat(inWork('memory.state'));
  assert.ok(state.isFile() && state.size > 10_000);
  assert.deepEqual(await tracesOf(host.instance, definition), []);

  // Nor does a start: what stands in the way of sockets goes, whatever it is, and a link is no saved memory.
  await plant('memory.state', 'symlink');
  await assert.rejects(driver.start(definition, { isRestoring: true }), { code: 'wrong_state' });
  await plant('qmp.sock', 'folder');
  await plant('serial.sock', 'symlink');
  const again = await driver.start(definition);
  assert.equal(await again.state(), 'running');
  await again.end();

  // A log that is none goes too, without what it stands for.
  for (const how of ['symlink', 'pipe', 'folder'] as const) {
    await plant('serial.log', how);
    const started = await driver.start(definition);
    const log = await lstat(inWork('serial.log'));
    assert.ok(log.isFile() && log.uid === uid, `QEMU has a log of its own after a ${how}`);
    await started.end();
  }
  assert.equal(await readFile(secret, 'utf8'), words);
  assert.equal((await stat(secret)).uid, 0);
});
