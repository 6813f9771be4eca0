// Descriptors sent to a running QEMU that could not have opened them itself: it runs confined, started by the launcher.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { chmod, chown, mkdir, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { run } from '../../src/host/command.ts';
import { launchConfined } from '../../src/host/launch/launch.ts';
import { sendDescriptors, SendDescriptorsError } from '../../src/host/launch/send-descriptors.ts';
import { identifyProcess, terminateProcess } from '../../src/host/process.ts';
import { atEnd } from '../support/cleanup.ts';
import { MARK_VARIABLE, markedName, runMark } from '../support/mark.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const nobody = 61234;

interface ConfinedQemu {
  pid: number;
  folder: string;
  /** The monitor for descriptors. */
  socketPath: string;
  /** Asks over the main monitor, which stays connected as the daemon's does. */
  ask: (execute: string, words?: object) => Promise<unknown>;
}

async function startConfinedQemu(t: TestContext): Promise<ConfinedQemu> {
  const folder = await temporaryFolder(t);
  const own = join(folder, 'qemu');
  await mkdir(own, { mode: 0o700 });
  await chown(own, nobody, nobody);
  const [main, extra] = ['main', 'extra'].map((name) => join(own, name)) as [string, string];
  const { pid } = await launchConfined({
    argv: [
      'qemu-system-x86_64',
      '-M',
      'q35',
      '-S',
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-m',
      '64',
      '-sandbox',
      'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
      '-qmp',
      `unix:${main},server=on,wait=off`,
      '-qmp',
      `unix:${extra},server=on,wait=off`,
      '-device',
      'pcie-root-port,id=port0',
    ],
    uid: nobody,
    gid: nobody,
    cwd: own,
    stderrPath: join(folder, 'stderr'),
    env: { [MARK_VARIABLE]: runMark() },
  });
  const identity = identifyProcess(pid)!;
  atEnd(t, () => terminateProcess(identity, { termTimeoutMs: 0 }));
  const socket = await eventually(
    () =>
      new Promise<ReturnType<typeof createConnection>>((resolve, reject) => {
        const connection = createConnection(main, () => resolve(connection));
        connection.once('error', reject);
      }),
    { describe: `QEMU listens: ${readFileSync(join(folder, 'stderr'), 'utf8')}` },
  );
  atEnd(t, () => socket.destroy());
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  const ask = async (execute: string, words?: object): Promise<unknown> => {
    socket.write(`${JSON.stringify({ execute, arguments: words })}\n`);
    for (;;) {
      const { value, done } = await lines.next();
      assert.ok(!done, 'QEMU ended');
      const answer = JSON.parse(value) as { return?: unknown; error?: { desc: string } };
      if (answer.error) throw new Error(answer.error.desc);
      if ('return' in answer) return answer.return;
    }
  };
  await ask('qmp_capabilities');
  return { pid, folder, socketPath: extra, ask };
}

async function makeTap(t: TestContext): Promise<string> {
  const name = markedName();
  await run(['ip', 'tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr']);
  atEnd(t, () => run(['ip', 'link', 'delete', name]));
  return name;
}

function openFiles(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
}

test('a disk that only root can read is plugged into a confined guest', async (t) => {
  const { pid, folder, socketPath, ask } = await startConfinedQemu(t);
  const disk = join(folder, 'disk.raw');
  await writeFile(disk, Buffer.alloc(1 << 20));
  await chmod(disk, 0o600);
  await assert.rejects(
    ask('blockdev-add', { driver: 'file', 'node-name': 'direct', filename: disk }),
    /Permission denied/,
  );
  const [set] = await sendDescriptors({
    socketPath,
    commands: [
      { execute: 'add-fd', arguments: { 'fdset-id': 9, opaque: 'disk' }, descriptor: { path: disk, mode: 'rw' } },
    ],
  });
  assert.equal((set as { 'fdset-id': number })['fdset-id'], 9);
  // The other monitor is gone now; the set is still there for the main one.
  await ask('blockdev-add', { driver: 'file', 'node-name': 'plugged', filename: '/dev/fdset/9' });
  await ask('device_add', { driver: 'virtio-blk-pci', drive: 'plugged', id: 'disk0', bus: 'port0' });
  assert.ok(openFiles(pid).includes(disk));
});

test('a tap is plugged into a confined guest as its network card', async (t) => {
  const { pid, socketPath, ask } = await startConfinedQemu(t);
  const tapName = await makeTap(t);
  await sendDescriptors({
    socketPath,
    commands: [
      { execute: 'getfd', arguments: { fdname: 'net1' }, descriptor: { tapName } },
      { execute: 'netdev_add', arguments: { type: 'tap', id: 'net1', fd: 'net1' } },
      { execute: 'closefd', arguments: { fdname: 'net1' }, isUndo: true },
    ],
  });
  await ask('device_add', { driver: 'virtio-net-pci', netdev: 'net1', id: 'nic1', bus: 'port0' });
  assert.ok(openFiles(pid).includes('/dev/net/tun'));
});

test('what goes wrong is named, and undone', async (t) => {
  const { pid, folder, socketPath } = await startConfinedQemu(t);
  const tapName = await makeTap(t);
  const refused = async (options: Partial<Parameters<typeof sendDescriptors>[0]>, expected: object): Promise<void> => {
    await assert.rejects(sendDescriptors({ socketPath, commands: [], ...options }), (error: unknown) => {
      assert.ok(error instanceof SendDescriptorsError, String(error));
      const { step, subject, code } = error;
      assert.deepEqual({ step, subject, code }, expected, error.message);
      return true;
    });
  };
  const getfd = { execute: 'getfd', arguments: { fdname: 'net1' } };
  // A network card that names a descriptor nobody sent is refused; the one that was sent is closed again.
  await refused(
    {
      commands: [
        { ...getfd, descriptor: { tapName } },
        { execute: 'netdev_add', arguments: { type: 'tap', id: 'net1', fd: 'other' } },
        { execute: 'closefd', arguments: { fdname: 'net1' }, isUndo: true },
      ],
    },
    { step: 'command', subject: 'netdev_add', code: 'GenericError' },
  );
  assert.ok(!openFiles(pid).includes('/dev/net/tun'));
  await refused({ commands: [getfd] }, { step: 'command', subject: 'getfd', code: 'GenericError' });
  await refused(
    { commands: [{ ...getfd, descriptor: { tapName: 'absent' } }] },
    { step: 'tap', subject: 'absent', code: 'ENODEV' },
  );
  const absent = join(folder, 'absent');
  await refused(
    { commands: [{ ...getfd, descriptor: { path: absent, mode: 'ro' } }] },
    { step: 'file', subject: absent, code: 'ENOENT' },
  );
  await refused({ socketPath: absent }, { step: 'socket', subject: absent, code: 'ENOENT' });
  await refused(
    { socketPath: `/${'x'.repeat(107)}` },
    { step: 'socket', subject: `/${'x'.repeat(107)}`, code: 'ENAMETOOLONG' },
  );
  // The main monitor serves its client and leaves others waiting.
  await refused(
    { socketPath: join(folder, 'qemu/main'), timeoutMs: 300 },
    { step: 'socket', subject: join(folder, 'qemu/main'), code: null },
  );
});
