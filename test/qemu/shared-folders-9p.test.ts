// Folders shared with a real guest by 9p, and the folders that no guest gets.
import assert from 'node:assert/strict';
import { lstat, mkdir, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { inGuest, makeShares, mountAll, owner, refusal, sharesOf, useFolders } from '../support/shared-folders.ts';

test('9p', { timeout: 300_000 }, async (context) => {
  const shares = await makeShares(context);
  const host = await qemuDaemon(context, {
    images: ['tiny-pc'],
    config: { qemu: { virtiofsd: '/nowhere/virtiofsd' }, sharedFolders: { allowedRoots: [shares.root] } },
  });
  await host.create('guest', { image: 'tiny-pc', memoryMib: 256, sharedFolders: sharesOf(shares) });
  const vm = await host.untilUp('guest');

  await context.test('is what is chosen where the node has no virtiofsd', () => {
    const device = vm.status.devices.find(({ name }) => name === 'shared folder data');
    assert.deepEqual(device && [device.model, device.why], ['virtio-9p-pci', 'the node has no virtiofsd']);
  });

  await context.test('the guest reads and writes, as the owner of the folder', async () => {
    await mountAll(host, 'guest', '9p');
    await useFolders(host, 'guest', shares);
  });

  await context.test('links of the node lead nowhere, and those of the guest stay in it', async () => {
    const { code } = await host.exec('guest', ['cat', '/mnt/data/away']);
    assert.notEqual(code, 0);
    assert.equal(
      await inGuest(host, 'guest', 'ln -s /etc/hostname /mnt/data/own; readlink /mnt/data/own'),
      '/etc/hostname',
    );
    assert.ok((await lstat(join(shares.data, 'own'))).isFile());
  });

  await context.test('owners and modes that the guest sets are the guest’s own', async () => {
    await inGuest(host, 'guest', 'cd /mnt/data && chown 1000:100 answer && chmod 4755 answer');
    assert.equal(await inGuest(host, 'guest', 'stat -c "%u %g %a" /mnt/data/answer'), '1000 100 4755');
    const { uid, gid, mode } = await lstat(join(shares.data, 'answer'));
    assert.deepEqual([uid, gid, (mode & 0o7777).toString(8)], [owner, owner, '600']);
  });

  await context.test('virtio-fs is refused, with what is missing', async () => {
    const error = await refusal(
      host.client.vm.create({
        query: { start: false },
        body: { name: 'other', spec: { image: 'tiny-pc', nics: [], sharedFolders: sharesOf(shares, 'virtiofs') } },
      }),
    );
    assert.equal(error.code, 'unsupported');
    assert.match(`${error.message} ${error.hint}`, /spec\.sharedFolders\.0\.driver.*virtiofsd/);
  });

  await context.test('a folder that is not allowed is refused, with the setting that allows', async () => {
    await symlink('/etc', join(shares.root, 'link'));
    const create = (path: string): Promise<unknown> =>
      host.client.vm.create({
        query: { start: false },
        body: { name: 'other', spec: { image: 'tiny-pc', nics: [], sharedFolders: [{ name: 'data', path }] } },
      });
    for (const path of ['/etc', '/nowhere/at/all', join(shares.root, 'link'), `${shares.root}/../..`]) {
      const error = await refusal(create(path));
      assert.equal(error.code, 'invalid_request', error.message);
      assert.match(`${error.message} ${error.hint}`, /sharedFolders\.allowedRoots/, path);
    }
    assert.match((await refusal(create(join(shares.root, 'missing')))).message, /does not exist/);
    assert.match((await refusal(create(join(shares.data, 'greeting')))).message, /not a folder/);
    await mkdir(join(shares.root, 'of-root'));
    assert.match((await refusal(create(join(shares.root, 'of-root')))).message, /belongs to root/);
  });

  await context.test('a folder that is gone at the start is told, and nothing is left half-made', async () => {
    await host.done(host.client.vm.stop({ params: { vm: 'guest' }, query: { project: 'default' } }));
    await rename(shares.documents, `${shares.documents}-elsewhere`);
    const error = await host.failed(host.client.vm.start({ params: { vm: 'guest' }, query: { project: 'default' } }));
    assert.match(error.message, /spec\.sharedFolders\.1\.path.*does not exist/);
    assert.equal((await host.vm('guest')).status.state, 'stopped');
  });
});
