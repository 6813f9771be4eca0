// Warm starts through the whole daemon: what was prepared once is what new VMs go on from, also after a restart of the
// daemon; what doesn't fit boots and says why; what is damaged makes nothing, and is prepared anew.
import assert from 'node:assert/strict';
import { chmod, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Template } from '../../src/api/template.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const spec: VmSpecInput = {
  image: 'tiny',
  memoryMib: 128,
  nics: [{ network: 'default' }],
  disks: [{ name: 'data', sizeMib: 8 }],
};

function networkIsReady(host: QemuDaemon): Promise<unknown> {
  return eventually(
    async () => (await host.client.network.get({ params: { network: 'default' } })).status.state === 'ready',
    { timeoutMs: 60_000, describe: 'the default network is ready' },
  );
}

async function createWarm(host: QemuDaemon, name: string, change: VmSpecInput = {}): Promise<Vm> {
  const body = { name, spec: { ...spec, ...change } };
  await host.done(host.client.vm.create({ query: { start: true, warm: true }, body }));
  return host.vm(name);
}

function template(host: QemuDaemon): Promise<Template> {
  return host.client.template.get({ params: { template: 'tiny' }, query });
}

async function inGuest(host: QemuDaemon, name: string, script: string): Promise<string> {
  const { output, code } = await host.exec(name, ['sh', '-c', script]);
  assert.equal(code, 0, `${script}: ${output}`);
  return output.trim();
}

/** Where the first program's stack lies, which the kernel draws when it boots. */
function bootOf(host: QemuDaemon, name: string): Promise<string> {
  return inGuest(host, name, "grep '\\[stack\\]' /proc/1/maps");
}

async function whyCold(host: QemuDaemon, vm: Vm): Promise<string> {
  return (await host.events(vm)).find(({ type }) => type === 'vm.started-cold')?.message ?? '';
}

async function deleteVm(host: QemuDaemon, name: string): Promise<void> {
  await host.done(host.client.vm.delete({ params: { vm: name }, query: { ...query, force: true } }));
}

test('VMs start from a guest that was prepared', { timeout: 600_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await networkIsReady(host);

  await context.test('where nothing is prepared, a VM boots and says so', async () => {
    const vm = await createWarm(host, 'cold');
    assert.equal(vm.status.lineage, null);
    assert.match(await whyCold(host, vm), /nothing is prepared of image tiny/);
    await deleteVm(host, 'cold');
  });

  await host.done(host.client.template.prepare({ body: { spec } }));

  await context.test('preparing leaves a version with memory, and no VM', async () => {
    const [version, ...others] = (await template(host)).status.versions;
    assert.ok(version?.memory);
    assert.deepEqual(others, []);
    const { state, image, memoryMib, savedMib } = version.memory;
    assert.deepEqual([state, image, memoryMib], ['ready', 'tiny', 128]);
    assert.ok(savedMib > 10 && savedMib < 140, `${savedMib} MiB`);
    assert.deepEqual((await host.client.vm.list({ query: {} })).items, []);
    // The layer that it holds is no volume.
    assert.deepEqual((await host.client.volume.list({ query: {} })).items, []);
  });

  let firstBoot = '';
  await context.test('VMs go on from it, each with an identity, a disk and addresses of its own', async () => {
    const vms = await Promise.all(['one', 'two'].map((name) => createWarm(host, name)));
    const seen = new Set<string>();
    for (const { name, status } of vms) {
      assert.equal(status.lineage?.kind, 'warm', status.reason);
      assert.equal(status.lineage.hasOwnIdentity, true, status.reason);
      assert.equal(status.taskId, null);
      assert.equal(await inGuest(host, name, 'hostname'), name);
      seen.add(await bootOf(host, name));
      const mac = await inGuest(host, name, 'cat /sys/class/net/eth0/address');
      assert.equal(mac, status.nics[0]?.mac);
      await inGuest(host, name, `printf '%-512s' ${name} | dd of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null`);
    }
    assert.equal(seen.size, 1, 'neither has booted');
    [firstBoot = ''] = seen;
    for (const { name } of vms) {
      const content = await inGuest(
        host,
        name,
        'echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 count=1 2>/dev/null',
      );
      assert.equal(content, name);
      // Not that of the time when it was prepared.
      const seconds = Number(await inGuest(host, name, 'date +%s'));
      assert.ok(Math.abs(seconds - Date.now() / 1000) < 30, `its clock shows ${seconds}`);
    }
    const addresses = await eventually(
      async () => {
        const all = await Promise.all(
          vms.map(
            async ({ name }) => /inet ([\d.]+)/.exec(await inGuest(host, name, 'ip -4 address show dev eth0'))?.[1],
          ),
        );
        return all.every((address) => address !== undefined) ? all : null;
      },
      { timeoutMs: 60_000, describe: 'both have addresses', intervalMs: 200 },
    );
    assert.equal(new Set(addresses).size, 2);
    await deleteVm(host, 'two');
  });

  await context.test('other hardware than was prepared boots, and says which field it is', async () => {
    const vm = await createWarm(host, 'larger', { memoryMib: 160 });
    assert.equal(vm.status.lineage, null);
    assert.match(await whyCold(host, vm), /memoryMib is 160, and it was prepared with 128/);
    await deleteVm(host, 'larger');
  });

  await context.test(
    'a VM goes on from it after the daemon was killed, and boots when it is started again',
    async () => {
      await host.daemon.restart('kill');
      await networkIsReady(host);
      const vm = await createWarm(host, 'three');
      assert.equal(vm.status.lineage?.kind, 'warm');
      assert.equal(await bootOf(host, 'three'), firstBoot);
      await host.done(host.client.vm.stop({ params: { vm: 'three' }, query, body: { timeoutS: 0 } }));
      await host.done(host.client.vm.start({ params: { vm: 'three' }, query, body: {} }));
      await host.untilUp('three');
      assert.notEqual(await bootOf(host, 'three'), firstBoot);
      await deleteVm(host, 'three');
    },
  );

  await context.test('a template makes two at once', async () => {
    const body = { name: 'many', count: 2, isWarm: true };
    const task = await host.done(host.client.template.deploy({ params: { template: 'tiny' }, query, body }));
    const filter = `status.lineage.forkId=${task.id}`;
    const { items } = await host.client.vm.list({ query: { filter } });
    assert.deepEqual(items.map(({ name }) => name).toSorted(), ['many-1', 'many-2']);
    assert.ok(items.every(({ status }) => status.state === 'running' && status.lineage?.hasOwnIdentity));
    for (const { name } of items) await deleteVm(host, name);
  });

  await context.test('damaged memory makes no VM, is told, and is prepared anew', async () => {
    const { id } = await template(host);
    const path = join(host.daemon.folder, 'data/templates', id, '1/memory/memory');
    await chmod(path, 0o600);
    const file = await open(path, 'r+');
    // Somewhere in the first pages that hold anything, behind the bitmap.
    await file.write(Buffer.alloc(64 * 1024, 0x5a), 0, 64 * 1024, 2 ** 20 + 4096);
    await file.close();
    const body = { name: 'four', spec };
    const error = await host.failed(host.client.vm.create({ query: { start: true, warm: true }, body }));
    assert.equal(error.code, 'image_invalid');
    assert.match(error.message, /tiny@1.*not as it was saved/);
    assert.ok(!(await host.client.vm.list({ query: {} })).items.some(({ name }) => name === 'four'));
    const anew = await eventually(
      async () => {
        const { versions } = (await template(host)).status;
        return versions.length === 1 && versions[0]?.memory?.state === 'ready' ? versions[0] : null;
      },
      { timeoutMs: 300_000, describe: 'it was prepared anew', intervalMs: 200 },
    );
    assert.equal(anew.version, 2);
    // The version takes the other's place before that one's files go, with the end of the task.
    await eventually(
      async () =>
        (await host.client.task.list({ query: { limit: 500 } })).items.every(
          ({ target, endedAt }) => target.id !== id || endedAt !== null,
        ),
      { timeoutMs: 60_000, describe: 'nothing works on the template', intervalMs: 100 },
    );
    await assert.rejects(stat(path), { code: 'ENOENT' });
    const vm = await createWarm(host, 'four');
    assert.equal(vm.status.lineage?.kind, 'warm');
    await deleteVm(host, 'four');
  });

  await context.test('with the template its memory goes, and VMs that came of it stay', async () => {
    const { id } = await template(host);
    await host.done(host.client.template.delete({ params: { template: 'tiny' }, query }));
    await assert.rejects(stat(join(host.daemon.folder, 'data/templates', id)), { code: 'ENOENT' });
    assert.equal(await inGuest(host, 'one', 'hostname'), 'one');
  });
});
