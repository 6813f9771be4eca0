import assert from 'node:assert/strict';
import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { hasFile, prepareFolder, readTail, removeLeftovers, vmFolder, workNames } from './folder.ts';

async function temporaryFolder(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-folder-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const ownUid = process.getuid?.() ?? 0;

test('what QEMU makes lies in its subfolder, what root opens beside it', () => {
  const folder = vmFolder('/vms/1');
  for (const name of ['qmpSocket', 'serialLog', 'screenshot', 'savedState'] as const)
    assert.equal(folder[name], `/vms/1/qemu/${workNames[name]}`);
  assert.equal(folder.processLog, '/vms/1/qemu.log');
  assert.equal(folder.uefiVariables, '/vms/1/uefi-variables.fd');
});

suite('reading the end of a file', () => {
  test('gives what is asked for and no more', async (context) => {
    const path = join(await temporaryFolder(context), 'log');
    await writeFile(path, '0123456789');
    assert.equal((await readTail(path, 4)).toString(), '6789');
    assert.equal((await readTail(path, 100)).toString(), '0123456789');
    assert.equal((await readTail(`${path}.missing`, 4)).length, 0);
  });

  test('refuses what is no plain file of its own', async (context) => {
    const folder = await temporaryFolder(context);
    const secret = join(folder, 'secret');
    await writeFile(secret, 'secret');
    await symlink(secret, join(folder, 'symlink'));
    await mkdir(join(folder, 'folder'));
    await link(secret, join(folder, 'second-name'));
    for (const name of ['symlink', 'folder', 'second-name'])
      await assert.rejects(readTail(join(folder, name), 100), { code: 'hypervisor_failed' }, name);
  });
});

suite('preparing the folder', () => {
  test('makes it so that only the VM’s user enters where QEMU works', async (context) => {
    const folder = vmFolder(join(await temporaryFolder(context), 'vm'));
    await prepareFolder(folder, ownUid);
    assert.equal((await stat(folder.directory)).mode & 0o777, 0o711);
    assert.equal((await stat(folder.work)).mode & 0o777, 0o700);
    assert.equal((await stat(folder.work)).uid, ownUid);
  });

  test('takes away what an earlier run left and keeps what is the guest’s', async (context) => {
    const folder = vmFolder(join(await temporaryFolder(context), 'vm'));
    await prepareFolder(folder, ownUid);
    await mkdir(join(folder.qmpSocket, 'in-the-way'), { recursive: true });
    await symlink('/etc/passwd', folder.serialSocket);
    for (const path of [folder.savedState, folder.serialLog, folder.processLog]) await writeFile(path, 'x');
    await prepareFolder(folder, ownUid);
    assert.deepEqual((await readdir(folder.work)).toSorted(), ['memory.state', 'serial.log']);
    assert.deepEqual((await readdir(folder.directory)).toSorted(), ['qemu', 'serial.times']);
    assert.ok((await readFile('/etc/passwd', 'utf8')).length > 0);
  });

  test('takes away a console log that is not QEMU’s own', async (context) => {
    const folder = vmFolder(join(await temporaryFolder(context), 'vm'));
    await prepareFolder(folder, ownUid);
    await symlink('/etc/passwd', folder.serialLog);
    await prepareFolder(folder, ownUid);
    assert.equal(await hasFile(folder.serialLog), false);
    assert.deepEqual(await readdir(folder.work), []);
  });
});

test('leftovers are gone also where there were none', async (context) => {
  const folder = vmFolder(join(await temporaryFolder(context), 'vm'));
  await removeLeftovers(folder);
  assert.equal(await hasFile(folder.qmpSocket), false);
});
