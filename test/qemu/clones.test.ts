// Clones of a running guest through the whole daemon: they boot with its disk as it was, and from there each is on its own.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const names = ['web1', 'linked', 'full'];

async function inGuest(host: QemuDaemon, name: string, script: string): Promise<string> {
  const { output, code } = await host.exec(name, ['sh', '-c', script]);
  assert.equal(code, 0, `${script}: ${output}`);
  return output.trim();
}

function write(host: QemuDaemon, name: string, text: string): Promise<string> {
  return inGuest(host, name, `printf '%-512s' '${text}' | dd of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null`);
}

function read(host: QemuDaemon, name: string): Promise<string> {
  return inGuest(host, name, 'echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 count=1 2>/dev/null');
}

test('a running guest is cloned', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await eventually(
    async () => (await host.client.network.get({ params: { network: 'default' } })).status.state === 'ready',
    { describe: 'the default network is ready' },
  );
  await host.create('web1', { nics: [{ network: 'default' }], disks: [{ name: 'data', sizeMib: 8 }] });
  await host.untilUp('web1');
  await write(host, 'web1', 'before');
  const before = await host.vm('web1');

  for (const mode of ['linked', 'full'] as const) {
    const body = { name: mode, mode, isStarted: true };
    await host.done(host.client.vm.clone({ params: { vm: 'web1' }, query, body }));
  }
  for (const mode of ['linked', 'full']) await host.untilUp(mode);

  await context.test('it runs on, and its clones are machines of their own', async () => {
    const vms = await Promise.all(names.map((name) => host.vm(name)));
    assert.equal(vms[0]?.status.pid, before.status.pid);
    for (const field of ['id', 'pid', 'uid'] as const)
      assert.equal(new Set(vms.map(({ id, status }) => (field === 'id' ? id : status[field]))).size, 3, field);
    const macs = await Promise.all(names.map((name) => inGuest(host, name, 'cat /sys/class/net/eth0/address')));
    assert.deepEqual(
      macs,
      vms.map(({ status }) => status.nics[0]?.mac),
    );
    assert.equal(new Set(macs).size, 3);
    for (const name of ['linked', 'full'])
      await eventually(async () => (await host.vm(name)).status.lineage?.hasOwnIdentity, {
        describe: `${name} has an identity of its own`,
      });
    const hostnames = await Promise.all(names.map((name) => inGuest(host, name, 'hostname')));
    assert.deepEqual(hostnames, names);
  });

  await context.test('each has its data, and what one writes no other sees', async () => {
    for (const name of names) assert.equal(await read(host, name), 'before', name);
    for (const name of names) await write(host, name, `by ${name}`);
    for (const name of names) assert.equal(await read(host, name), `by ${name}`);
  });

  await context.test('the clones keep their data when their original is deleted', async () => {
    await host.done(host.client.vm.delete({ params: { vm: 'web1' }, query: { ...query, force: true } }));
    for (const name of ['linked', 'full']) assert.equal(await read(host, name), `by ${name}`);
    await host.done(host.client.vm.restart({ params: { vm: 'linked' }, query, body: { timeoutS: 5 } }));
    await host.untilUp('linked');
    assert.equal(await read(host, 'linked'), 'by linked');
  });
});
