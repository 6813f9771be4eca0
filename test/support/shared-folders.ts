// Folders that tests share with real guests, and what every guest can do with them, whoever serves them.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmod, chown, lstat, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { findProcesses } from '../../src/host/process.ts';
import { type QemuDaemon } from './qemu-daemon.ts';
import { temporaryFolder } from './temporary.ts';

/** A user that no machine has, whom the shared folders belong to. */
export const owner = 61300;

export interface Shares {
  root: string;
  data: string;
  documents: string;
}

export async function makeShares(context: TestContext): Promise<Shares> {
  const root = await temporaryFolder(context);
  const [data, documents] = [join(root, 'data'), join(root, 'documents')];
  for (const folder of [data, documents]) {
    await mkdir(folder);
    await writeFile(join(folder, 'greeting'), 'hello from the node\n');
    await symlink('/etc/passwd', join(folder, 'away'));
    for (const path of [folder, join(folder, 'greeting')]) await chown(path, owner, owner);
    await chmod(folder, 0o700);
    await chmod(join(folder, 'greeting'), 0o600);
  }
  return { root, data, documents };
}

export function sharesOf(shares: Shares, driver?: 'virtiofs' | '9p'): NonNullable<VmSpecInput['sharedFolders']> {
  return [
    { name: 'data', path: shares.data, ...(driver ? { driver } : {}) },
    { name: 'documents', path: shares.documents, access: 'read-only', ...(driver ? { driver } : {}) },
  ];
}

/** Runs a script in the guest, which must succeed. */
export async function inGuest(host: QemuDaemon, name: string, script: string): Promise<string> {
  const { output, code } = await host.exec(name, ['sh', '-c', `exec 2>&1; ${script}`]);
  assert.equal(code, 0, `${script}: ${output}`);
  return output.trim();
}

/** Mounts both folders with what `lodge vm show` says of it. */
export async function mountAll(host: QemuDaemon, name: string, type: 'virtiofs' | '9p'): Promise<void> {
  const options = type === '9p' ? ',trans=virtio,version=9p2000.L,msize=512000' : '';
  await inGuest(
    host,
    name,
    `mkdir -p /mnt/data /mnt/documents; modprobe ${type}; modprobe 9pnet_virtio; mount -t ${type} -o rw${options} data /mnt/data && mount -t ${type} -o ro${options} documents /mnt/documents`,
  );
}

export async function servers(vmId: string): Promise<number> {
  const found = await findProcesses({ environmentVariable: 'LODGE_VM_SHARED_FOLDER' });
  return found.filter(({ mark }) => mark?.endsWith(`/${vmId}`)).length;
}

export async function refusal(call: Promise<unknown>): Promise<LodgeError> {
  const error = await call.then(
    () => assert.fail('it was not refused'),
    (failure: unknown) => failure,
  );
  assert.ok(error instanceof LodgeError, String(error));
  return error;
}

/** What a guest can do with folders, whoever serves them. */
export async function useFolders(host: QemuDaemon, name: string, shares: Shares): Promise<void> {
  assert.equal(await inGuest(host, name, 'cat /mnt/data/greeting'), 'hello from the node');
  await inGuest(
    host,
    name,
    'echo hello from the guest > /mnt/data/answer; mkdir -p /mnt/data/a/b; echo 1 > /mnt/data/a/b/c',
  );
  assert.equal(await readFile(join(shares.data, 'answer'), 'utf8'), 'hello from the guest\n');
  for (const made of ['answer', 'a/b', 'a/b/c']) {
    const { uid, gid } = await lstat(join(shares.data, made));
    assert.deepEqual([uid, gid], [owner, owner], made);
  }
  const mib = await inGuest(
    host,
    name,
    'dd if=/dev/urandom of=/mnt/data/blob bs=64k count=64 2>/dev/null; md5sum < /mnt/data/blob',
  );
  const hash = createHash('md5')
    .update(await readFile(join(shares.data, 'blob')))
    .digest('hex');
  assert.equal(mib.split(' ')[0], hash);
  const tries = [
    'echo x > /mnt/documents/new',
    'echo x >> /mnt/documents/greeting',
    'rm /mnt/documents/greeting',
    'mount -o remount,rw /mnt/documents && echo x > /mnt/documents/new',
  ];
  const { output } = await host.exec(name, [
    'sh',
    '-c',
    tries.map((line) => `{ ${line}; } 2>/dev/null && echo "done: ${line}"`).join('\n'),
  ]);
  assert.equal(output, '', 'what is read-only can not be written to');
  assert.equal(await inGuest(host, name, 'cat /mnt/documents/greeting'), 'hello from the node');
}
