// Folders shared with a real guest by virtio-fs: what the guest reads and writes there, whom it belongs to on the node, and
// what becomes of the processes that serve it.
import assert from 'node:assert/strict';
import { lstat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { mountOf, mountPointOf } from '../../src/api/vm-shared-folder.ts';
import { findProcesses, signalProcess } from '../../src/host/process.ts';
import { composeUserData } from '../../src/lib/cloud-config.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import {
  inGuest,
  makeShares,
  mountAll,
  owner,
  refusal,
  servers,
  sharesOf,
  useFolders,
} from '../support/shared-folders.ts';
import { virtiofsdProgram } from '../support/virtiofsd.ts';
import { eventually } from '../support/wait.ts';

test('virtio-fs', { timeout: 300_000 }, async (context) => {
  const shares = await makeShares(context);
  const host = await qemuDaemon(context, {
    config: { qemu: { virtiofsd: await virtiofsdProgram(context) }, sharedFolders: { allowedRoots: [shares.root] } },
  });
  await host.create('guest', { sharedFolders: sharesOf(shares) });
  const vm = await host.untilUp('guest');

  await context.test('is what is chosen where the node has virtiofsd', async () => {
    const devices = vm.status.devices.filter(({ name }) => name.startsWith('shared folder'));
    assert.deepEqual(
      devices.map(({ name, kind, model, otherKind }) => ({ name, kind, model, otherKind })),
      ['data', 'documents'].map((name) => ({
        name: `shared folder ${name}`,
        kind: 'paravirtual',
        model: 'vhost-user-fs-pci',
        otherKind: null,
      })),
    );
  });

  await context.test('what cloud-init is told to do mounts them, once and for all', async () => {
    const mounts = vm.spec.sharedFolders.map((folder) => ({
      source: folder.name,
      mountPoint: mountPointOf(folder),
      ...mountOf({ driver: 'virtiofs', access: folder.access }),
    }));
    const { bootcmd } = parse(composeUserData({ mounts })) as { bootcmd: string[][] };
    // The guest's disk may be a copy of one that has done it.
    for (const time of ['first', 'second']) {
      await inGuest(host, 'guest', bootcmd[0]!.at(-1)!);
      assert.equal(await inGuest(host, 'guest', 'grep -c virtiofs /etc/fstab'), '2', time);
      const read = 'cat /mnt/data/greeting /mnt/documents/greeting | uniq';
      assert.equal(await inGuest(host, 'guest', read), 'hello from the node', time);
      await inGuest(host, 'guest', 'umount /mnt/data /mnt/documents');
    }
  });

  await context.test('the guest reads and writes, as the owner of the folder', async () => {
    await mountAll(host, 'guest', 'virtiofs');
    await useFolders(host, 'guest', shares);
    assert.equal(await inGuest(host, 'guest', 'readlink /mnt/data/away'), '/etc/passwd');
    assert.equal(await inGuest(host, 'guest', 'stat -c "%u %g" /mnt/data/greeting /mnt/data/answer'), '0 0\n0 0');
  });

  await context.test('an ordinary user of the guest can write where the folder lets everybody', async () => {
    await inGuest(
      host,
      'guest',
      'echo user::1000:1000::/:/bin/sh >> /etc/passwd; chown 1000:1000 /mnt/data/answer && chmod 711 /mnt/data && mkdir -m 777 /mnt/data/open',
    );
    const listed = await inGuest(
      host,
      'guest',
      'su user -c "echo mine > /mnt/data/open/user && ls -ln /mnt/data/open"',
    );
    assert.match(listed, / 0 +0 +5 .* user$/m);
    const { uid } = await lstat(join(shares.data, 'open/user'));
    assert.equal(uid, owner);
    const { code } = await host.exec('guest', ['su', 'user', '-c', 'cat /mnt/documents/greeting']);
    assert.notEqual(code, 0, 'a file of mode 0600 is its owner’s only, in the guest too');
  });

  await context.test('its memory can not be saved, with the reason', async () => {
    const vmCall = { params: { vm: 'guest' }, query: { project: 'default' } } as const;
    for (const call of [
      () => host.client.vm.suspend(vmCall),
      () => host.client.vm.fork({ ...vmCall, body: { count: 1 } }),
      () => host.client.snapshot.create({ ...vmCall, body: { name: 'whole', withMemory: true } }),
    ]) {
      const error = await refusal(call());
      assert.equal(error.code, 'unsupported');
      assert.match(error.message, /shared folders \(data, documents\)/);
    }
    assert.equal((await host.vm('guest')).status.state, 'running');
  });

  await context.test('a folder that is added waits for the next start', async () => {
    const { spec, revision } = await host.vm('guest');
    const sharedFolders = [...spec.sharedFolders, { name: 'more', path: shares.data, access: 'read-only' as const }];
    const body = { revision, spec: { ...spec, sharedFolders } };
    const changed = await host.client.vm.update({ params: { vm: 'guest' }, query: { project: 'default' }, body });
    const [pending] = changed.status.pendingChanges;
    assert.equal(changed.status.pendingChanges.length, 1);
    assert.match(pending!.field, /^spec\.sharedFolders/);
    assert.equal(pending!.needsRestart, true);
    await host.client.vm.update({
      params: { vm: 'guest' },
      query: { project: 'default' },
      body: { revision: changed.revision, spec },
    });
  });

  await context.test(
    'the guest keeps its folders when the daemon dies, and the next one knows what serves them',
    async () => {
      await host.daemon.kill();
      await writeFile(join(shares.data, 'meanwhile'), 'written without a daemon');
      await host.daemon.start();
      await host.until('guest', 'has its agent again', ({ status }) => status.isUp && status.state === 'running');
      assert.equal(await inGuest(host, 'guest', 'cat /mnt/data/meanwhile'), 'written without a daemon');
      await host.done(host.client.vm.stop({ params: { vm: 'guest' }, query: { project: 'default' } }));
      assert.equal(await servers(vm.id), 0);
    },
  );

  await context.test('when what serves a folder dies, that is told, and a restart brings it back', async () => {
    await host.done(host.client.vm.start({ params: { vm: 'guest' }, query: { project: 'default' } }));
    await host.untilUp('guest');
    const [server] = (await findProcesses({ environmentVariable: 'LODGE_VM_SHARED_FOLDER' })).filter(
      ({ mark, argv }) => mark?.endsWith(`/${vm.id}`) && argv.includes('shared-folder-data.sock'),
    );
    assert.ok(server);
    signalProcess(server.identity, 'SIGKILL');
    const warned = await host.until('guest', 'has a warning', ({ status }) => status.warnings.length > 0);
    assert.equal(warned.status.warnings[0]!.code, 'shared-folders-died');
    assert.match(warned.status.warnings[0]!.message, /for data;/);
    assert.equal(warned.status.state, 'running');
    await host.done(host.client.vm.restart({ params: { vm: 'guest' }, query: { project: 'default' } }));
    const restarted = await host.until('guest', 'is up again', ({ status }) => status.isUp);
    assert.deepEqual(restarted.status.warnings, []);
    await mountAll(host, 'guest', 'virtiofs');
  });

  await context.test('what serves the folders ends with the guest, however that ends', async () => {
    const { pid } = (await host.vm('guest')).status;
    process.kill(pid!, 'SIGKILL');
    await host.until('guest', 'has ended', ({ status }) => status.state === 'stopped');
    await eventually(async () => ((await servers(vm.id)) === 0 ? true : null), {
      timeoutMs: 30_000,
      describe: 'nothing serves the folders any more',
    });
  });
});
