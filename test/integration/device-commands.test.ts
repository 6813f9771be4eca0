// The verbs of lodge vm for disks, NICs, CD-ROMs, balloon and USB, as somebody types them, on a VM that runs: each changes the
// spec, and what the guest has.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { commandLine, type CommandLine } from '../support/command-line.ts';
import { sharedFakeLodge } from '../support/fake-lodge.ts';
import { type FakeProcess } from '../../src/drivers/fake/fake-guest.ts';

const lodge = sharedFakeLodge();

interface Scene {
  cli: CommandLine;
  vm: () => Promise<Vm>;
  /** What the guest has. */
  has: () => Promise<FakeProcess['hardware']>;
}

/** A VM that runs, with a disk, a CD-ROM drive and a USB controller. */
async function scene(t: TestContext): Promise<Scene> {
  const { daemon } = await lodge(t);
  const cli = await commandLine(t, daemon);
  await cli.ok('network', 'create', 'lab', '--mode', 'user');
  await cli.ok('vm', 'create', 'web1', '--disk', '1GiB', '--network', 'lab', '--usb', 'xhci', '--no-start');
  await cli.ok('vm', 'start', 'web1');
  const vm = (): Promise<Vm> => daemon.client.vm.get({ params: { vm: 'web1' } });
  const { id } = await vm();
  const path = join(daemon.folder, 'data', 'fake-guests', `${id}.json`);
  return { cli, vm, has: async () => (JSON.parse(await readFile(path, 'utf8')) as FakeProcess).hardware };
}

test('the devices of a VM that runs are changed by commands', async (t) => {
  const { cli, vm, has } = await scene(t);
  await t.test('disks are added, made larger, limited and taken out', async () => {
    const names = async (): Promise<string[]> => (await has()).disks.map(({ name }) => name);
    await cli.ok('vm', 'disk', 'add', 'web1', 'data', '--size', '2GiB');
    assert.deepEqual(await names(), ['root', 'data']);
    assert.match(await cli.fails(2, 'vm', 'disk', 'add', 'web1', 'data', '--size', '2GiB'), /data/);
    await cli.ok('vm', 'disk', 'resize', 'web1', 'data', '3GiB');
    assert.equal((await has()).disks[1]?.sizeMib, 3072);
    assert.match(await cli.fails(2, 'vm', 'disk', 'resize', 'web1', 'nothing', '3GiB'), /nothing/);
    await cli.ok('vm', 'disk', 'limit', 'web1', 'data', '--iops', '500', '--read-bandwidth', '50MiB');
    assert.deepEqual((await has()).disks[1]?.limits, { iops: 500, readBytesPerSecond: 50 * 2 ** 20 });
    await cli.ok('vm', 'disk', 'limit', 'web1', 'data');
    assert.equal((await has()).disks[1]?.limits, null);
    await cli.ok('vm', 'disk', 'remove', 'web1', 'data');
    assert.deepEqual(await names(), ['root']);
    assert.match(await cli.ok('volume', 'list'), /web1-data/, 'its volume stays');
    await cli.ok('vm', 'disk', 'add', 'web1', 'again', '--volume', 'web1-data', '--bus', 'scsi', '--read-only');
    const [, again] = (await vm()).spec.disks;
    assert.deepEqual([again?.bus, again?.isReadOnly, again?.volume], ['scsi', true, 'web1-data']);
    assert.match(await cli.fails(2, 'vm', 'disk', 'remove', 'web1', 'nothing'), /nothing/);
  });

  await t.test('NICs are added, plugged in and out, and taken out, by number, address or network', async () => {
    await cli.ok('network', 'create', 'other', '--mode', 'user');
    await cli.ok('vm', 'nic', 'add', 'web1', 'other', '--mac', '52:54:00:01:02:03', '--model', 'e1000e');
    assert.deepEqual((await has()).nics[1], { mac: '52:54:00:01:02:03', isConnected: true });
    await cli.ok('vm', 'nic', 'disconnect', 'web1', '1');
    assert.equal((await has()).nics[1]?.isConnected, false);
    await cli.ok('vm', 'nic', 'connect', 'web1', '52:54:00:01:02:03');
    assert.equal((await has()).nics[1]?.isConnected, true);
    await cli.ok('vm', 'nic', 'remove', 'web1', 'other');
    assert.deepEqual([(await has()).nics.length, (await vm()).spec.nics.length], [1, 1]);
    assert.match(await cli.fails(2, 'vm', 'nic', 'remove', 'web1', '7'), /7/);
  });

  await t.test(
    'vCPUs, memory, balloon and USB devices change while it runs, and the rest waits and says so',
    async () => {
      await cli.ok('vm', 'balloon', 'web1', '256MiB');
      assert.equal((await has()).balloonMib, 256);
      await cli.ok('vm', 'balloon', 'web1', 'all');
      const { memoryMib } = (await vm()).spec;
      assert.equal((await has()).balloonMib, memoryMib);
      await cli.ok('vm', 'set', 'web1', 'cpu.count=2', `memoryMib=${memoryMib + 128}`);
      assert.deepEqual([(await has()).vcpus, (await has()).memoryMib], [2, memoryMib + 128]);
      await cli.ok('vm', 'set', 'web1', 'usbDevices=[{"name": "pointer", "type": "tablet"}]');
      assert.deepEqual((await has()).usbDevices, ['pointer']);
      await cli.ok('vm', 'set', 'web1', 'usbDevices=[]');
      assert.deepEqual((await has()).usbDevices, []);
      const said = await cli.run(['vm', 'set', 'web1', 'serialConsole=virtio-console']);
      assert.equal(said.code, 0);
      assert.match(`${said.out}${said.err}`, /restart|next start/);
      assert.deepEqual(
        (await vm()).status.pendingChanges.map(({ field }) => field),
        ['spec.serialConsole'],
      );
    },
  );
});
