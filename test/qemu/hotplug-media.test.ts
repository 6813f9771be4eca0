// Media, disks in use and USB of a running guest, as the guest itself sees them: what it holds on to is refused or told,
// and taken from it only when that is said.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpec } from '../../src/api/vm-spec.ts';
import { waitForTask } from '../../src/client/follow.ts';
import { run } from '../../src/host/command.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const params = { vm: 'web1' };
const query = { project: 'default' } as const;

test('a guest sees media and USB come and go, and keeps what it uses', { timeout: 400_000 }, async (t) => {
  const host = await qemuDaemon(t, { images: ['tiny-pc'] });
  const { client } = host;
  const folder = await temporaryFolder(t);
  const importFile = (name: string, path: string): Promise<unknown> =>
    host.done(client.image.create({ body: { name, spec: { source: { type: 'file', path } } } }));
  for (const name of ['one', 'two']) {
    const content = join(folder, name);
    await mkdir(content);
    await writeFile(join(content, 'which'), name);
    await run(['genisoimage', '-quiet', '-o', `${content}.iso`, content]);
    await importFile(`disc-${name}`, `${content}.iso`);
  }
  const fat = join(folder, 'fat.raw');
  await run(['mformat', '-C', '-i', fat, '-T', '16384', '-h', '16', '-s', '32', '::']);
  await importFile('fat', fat);

  await host.create('web1', {
    image: 'tiny-pc',
    memoryMib: 192,
    disks: [
      { name: 'data', image: 'fat' },
      { name: 'cd', device: 'cdrom', image: 'disc-one' },
    ],
  });
  await host.untilUp('web1');
  await eventually(() => client.vm.guestInfo({ params }), { timeoutMs: 120_000, describe: 'the agent answers' });

  const sh = async (script: string): Promise<string> => (await host.exec('web1', ['sh', '-c', script])).output.trim();
  const seen = (script: string, wanted: string | RegExp): Promise<unknown> =>
    eventually(
      async () => {
        const output = await sh(`${script} 2>&1`);
        if (typeof wanted === 'string' ? output !== wanted : !wanted.test(output)) throw new Error(output);
        return true;
      },
      { timeoutMs: 60_000, describe: `${script} gives ${wanted}`, intervalMs: 200 },
    );
  const change = async (to: (spec: VmSpec) => VmSpec, force = false): Promise<Vm> => {
    const before = await host.vm('web1');
    const body = { revision: before.revision, spec: to(before.spec) };
    const changed = await client.vm.update({ params, query: { ...query, force }, body });
    const { taskId } = changed.status;
    if (taskId) await waitForTask(client, taskId, { timeoutMs: 120_000 });
    return host.vm('web1');
  };
  const without =
    (name: string) =>
    (spec: VmSpec): VmSpec => ({ ...spec, disks: spec.disks.filter((disk) => disk.name !== name) });
  const insert =
    (image: string | undefined) =>
    (spec: VmSpec): VmSpec => ({
      ...spec,
      disks: spec.disks.map((disk) => (disk.name === 'cd' ? { ...disk, image } : disk)),
    });
  const readDisc = 'mkdir -p /cd; mount -t iso9660 -o ro /dev/sr0 /cd && cat /cd/which; umount /cd';

  await t.test('a disc is changed and ejected; by force also one that the guest has mounted and locked', async () => {
    await seen(readDisc, 'one');
    assert.deepEqual((await change(insert('disc-two'))).status.pendingChanges, []);
    await seen(readDisc, 'two');
    assert.deepEqual((await change(insert(undefined))).status.pendingChanges, []);
    await seen('dd if=/dev/sr0 of=/dev/null count=1', /No medium/);
    await change(insert('disc-one'));
    await seen(readDisc, 'one');
    await sh('mount -t iso9660 -o ro /dev/sr0 /cd; echo 1 > /proc/sys/dev/cdrom/lock');
    assert.deepEqual((await change(insert('disc-two'), true)).status.pendingChanges, []);
    await sh('umount -l /cd');
    await seen(readDisc, 'two');
  });

  await t.test('a disk that is mounted is not taken out, unless by force', async () => {
    await sh('mkdir -p /data; mount -t vfat /dev/vda /data && echo kept > /data/note');
    const refused = await change(without('data')).then(
      () => null,
      (error: unknown) => error,
    );
    assert.ok(refused instanceof LodgeError, String(refused));
    assert.equal(refused.code, 'in_use');
    assert.match(refused.message, /disk data mounted at \/data/);
    assert.match(refused.hint, /force/);
    assert.equal(await sh('cat /data/note'), 'kept');
    assert.deepEqual((await change(without('data'), true)).status.pendingChanges, []);
    await seen('ls /sys/block', /^(?!.*vda)/s);
    await sh('umount -l /data');
    assert.equal((await client.volume.get({ params: { volume: 'web1-data' }, query })).status.usedBy, null);
  });

  await t.test('what is plugged into USB is there, and can be pulled out', async () => {
    const added = await change((spec) => ({
      ...spec,
      usbDevices: [{ name: 'pointer', type: 'tablet' }],
      disks: [
        ...spec.disks,
        { name: 'stick', sizeMib: 8, bus: 'usb', device: 'disk', isReadOnly: false, cache: 'writeback' },
      ],
    }));
    assert.deepEqual(added.status.pendingChanges, []);
    await seen('cat /sys/bus/usb/devices/*/product', /QEMU USB Tablet/);
    await seen('cat /sys/bus/usb/devices/*/product', /QEMU USB HARDDRIVE/);
    await seen('cat /sys/block/sda/size', String((8 * 2 ** 20) / 512));
    assert.equal(
      await sh('echo on-a-stick > /tmp/x; dd if=/tmp/x of=/dev/sda conv=fsync 2>/dev/null; head -c 10 /dev/sda'),
      'on-a-stick',
    );

    const tooMany = await change((spec) => ({
      ...spec,
      usbDevices: Array.from({ length: 6 }, (_, index) => ({ name: `p${index}`, type: 'mouse' as const })),
    }));
    assert.match(tooMany.status.pendingChanges[0]?.reason ?? '', /no place for another device/);
    assert.equal(tooMany.status.startedSpec?.usbDevices.length, 5, 'as many as have a place are there');
    const removed = await change((spec) => ({ ...without('stick')(spec), usbDevices: [] }));
    assert.deepEqual(removed.status.pendingChanges, []);
    await seen('cat /sys/bus/usb/devices/*/product; ls /sys/block', /^(?!.*(Tablet|Mouse|HARDDRIVE|sda))/s);
  });

  await t.test('a volume of its own grows while the guest has it', async () => {
    const volume = { params: { volume: 'own' }, query };
    await host.done(client.volume.create({ body: { name: 'own', spec: { sizeMib: 8 } } }));
    const own = { name: 'own', volume: 'own', bus: 'scsi', device: 'disk', isReadOnly: false } as const;
    await change((spec) => ({ ...spec, disks: [...spec.disks, { ...own, cache: 'writeback' }] }));
    await seen('cat /sys/block/sda/size', String((8 * 2 ** 20) / 512));
    const { spec } = await client.volume.get(volume);
    const grown = await client.volume.update({ ...volume, body: { spec: { ...spec, sizeMib: 24 } } });
    assert.equal(grown.status.virtualSizeMib, 24);
    await seen('cat /sys/block/sda/size', String((24 * 2 ** 20) / 512));
    assert.deepEqual((await change(without('own'))).status.pendingChanges, []);
  });

  await t.test('a guest that does not answer keeps a disk, and it goes when the guest lets go', async () => {
    const late = { name: 'late', sizeMib: 8, bus: 'virtio', device: 'disk', isReadOnly: false } as const;
    const added = await change((spec) => ({ ...spec, disks: [...spec.disks, { ...late, cache: 'writeback' }] }));
    assert.deepEqual(added.status.pendingChanges, []);
    await seen('cat /sys/block/vda/serial', 'late');
    await client.vm.pause({ params });
    const kept = await change(without('late'), true);
    assert.match(kept.status.pendingChanges[0]?.reason ?? '', /Within 20 s the guest did not let go of disk late/);
    assert.ok(kept.status.disks.some(({ name }) => name === 'late'));
    await client.vm.resume({ params });
    await host.until('web1', 'has let go of the disk', ({ status }) => status.pendingChanges.length === 0);
    await seen('ls /sys/block', /^(?!.*vda)/s);
  });
});
