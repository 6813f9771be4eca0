// What guest/linux/seal takes out of a system, and what it leaves: run on a folder that looks like one.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { run } from '../../src/host/command.ts';
import { temporaryFolder } from '../support/temporary.ts';

const script = join(import.meta.dirname, '../../guest/linux/seal');

const gone = [
  'var/lib/cloud/instances/1/user-data.txt',
  'var/lib/cloud/sem/config',
  'etc/ssh/ssh_host_rsa_key',
  'etc/ssh/ssh_host_rsa_key.pub',
  'var/log/journal/0123/system.journal',
  'var/log/syslog.1',
  'var/log/apt/history.log.2.gz',
  'root/.bash_history',
  'home/ada/.ash_history',
  'var/lib/dhcp/dhclient.eth0.leases',
  'etc/udev/rules.d/70-persistent-net.rules',
  'var/lib/systemd/random-seed',
  'var/mail/ada',
  'var/crash/vmcore',
  'etc/shadow-',
  'var/cache/apt/archives/less.deb',
  'tmp/notes',
];
const emptied = ['etc/machine-id', 'var/log/syslog', 'var/log/apt/history.log', 'var/log/wtmp'];
const kept = [
  'etc/passwd',
  'etc/shadow',
  'etc/ssh/sshd_config',
  'etc/hostname',
  'root/.bashrc',
  'home/ada/.ssh/authorized_keys',
  'home/ada/notes.txt',
  'var/lib/dpkg/status',
  'var/cache/apt/pkgcache.bin',
];

async function filesUnder(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .toSorted();
}

async function seal(root: string, hasFirstBoot: boolean): Promise<string[]> {
  const env = { ...process.env, LODGE_ROOT: root, LODGE_HAS_FIRST_BOOT: hasFirstBoot ? '1' : '0' };
  const { stdout } = await run(['/bin/sh', script], { env, timeoutMs: 60_000 });
  return stdout.split('\n').filter(Boolean);
}

test('what tells of one system goes, and what the system is made of stays', async (t) => {
  const root = await temporaryFolder(t);
  for (const path of [...gone, ...emptied, ...kept]) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), `content of ${path}\n`);
  }
  await mkdir(join(root, 'var/lib/dbus'), { recursive: true });
  await symlink('/etc/machine-id', join(root, 'var/lib/dbus/machine-id'));
  assert.deepEqual((await seal(root, true)).toSorted(), [
    'cloud-init',
    'crash-data',
    'dhcp-leases',
    'logs',
    'machine-id',
    'mail',
    'network-names',
    'old-passwords',
    'package-cache',
    'random-seed',
    'shell-history',
    'ssh-host-keys',
    'temporary-files',
  ]);
  assert.deepEqual(await filesUnder(root), [...emptied, ...kept, 'var/lib/dbus/machine-id'].toSorted());
  for (const path of emptied) assert.equal(await readFile(join(root, path), 'utf8'), '', path);
  for (const path of kept) assert.equal(await readFile(join(root, path), 'utf8'), `content of ${path}\n`);
  assert.deepEqual(await seal(root, true), ['machine-id'], 'a second time there is nothing left but the empty file');
});

test('without cloud-init the ssh host keys are others, so that somebody can sign in before the agent has made new ones', async (t) => {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'etc/ssh'), { recursive: true });
  await writeFile(join(root, 'etc/ssh/ssh_host_ed25519_key'), 'old');
  assert.deepEqual(await seal(root, false), ['ssh-host-keys']);
  assert.match(await readFile(join(root, 'etc/ssh/ssh_host_ed25519_key'), 'utf8'), /BEGIN OPENSSH PRIVATE KEY/);
});
