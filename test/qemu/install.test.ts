// Installing from an ISO: while the disk is empty the CD-ROM is booted from, and once something is on the disk, that is. What is
// done with the CD-ROM meanwhile is seen by the guest.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../../src/host/command.ts';
import { bootSector, makeBootableIso } from '../support/boot-sector.ts';
import { makeLoader } from '../support/efi-disk.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { makeTinyIso } from '../support/tiny-iso.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const params = { vm: 'web1' };
const bootMs = 300_000;

async function importIso(host: QemuDaemon, name: string, path: string): Promise<void> {
  const source = { type: 'file', path } as const;
  await host.done(host.client.image.create({ body: { name, spec: { source } } }));
}

test('a system is installed from an ISO, and boots from its disk then', { timeout: 900_000 }, async (context) => {
  const host = await qemuDaemon(context, { images: [] });
  const { client } = host;
  const folder = join(host.daemon.folder, 'media');
  await mkdir(join(folder, 'drivers'), { recursive: true, mode: 0o755 });
  const [installer, drivers] = [join(folder, 'installer.iso'), join(folder, 'drivers.iso')];
  await makeTinyIso(installer, folder);
  await run(['xorriso', '-as', 'mkisofs', '-quiet', '-V', 'DRIVERS', '-o', drivers, join(folder, 'drivers')]);
  await importIso(host, 'installer', installer);
  await importIso(host, 'drivers', drivers);
  await host.create('web1', {
    image: undefined,
    memoryMib: 256,
    display: 'none',
    firmware: { type: 'bios' },
    disks: [
      { name: 'root', sizeMib: 64 },
      { name: 'cdrom', device: 'cdrom', image: 'installer', bus: 'scsi' },
    ],
  });
  await host.until('web1', 'is up', (vm) => vm.status.isUp, bootMs);

  const medium = async (): Promise<string> => {
    // The identifier of the volume: ECMA-119, 8.4.7.
    const read = 'dd if=/dev/sr0 bs=1 skip=32808 count=32 2>/dev/null || echo none';
    return (await host.exec('web1', ['sh', '-c', read])).output.trim();
  };
  const untilMedium = (wanted: string): Promise<boolean> =>
    eventually(async () => (await medium()) === wanted, {
      timeoutMs: 60_000,
      describe: `the guest sees ${wanted} in its drive`,
    });
  const insert = (image: string | undefined): Promise<unknown> =>
    host.change('web1', (spec) => ({
      ...spec,
      disks: spec.disks.map((disk) => (disk.name === 'cdrom' ? { ...disk, image } : disk)),
    }));
  await untilMedium('INSTALLER');
  await insert('drivers');
  await untilMedium('DRIVERS');
  await insert(undefined);
  await untilMedium('none');
  await insert('installer');
  await untilMedium('INSTALLER');

  const sector = bootSector('INSTALLED BOOTS').toString('base64');
  const { output, code } = await host.exec(
    'web1',
    ['sh', '-c', 'base64 -d | dd of=/dev/vda bs=512 conv=fsync 2>&1'],
    sector,
  );
  assert.equal(code, 0, output);
  await client.vm.reset({ params, query });
  await eventually(async () => (await host.console('web1')).includes('INSTALLED BOOTS'), {
    timeoutMs: bootMs,
    describe: 'the disk boots, although the CD-ROM is still there',
  });
});

test('by UEFI, an empty disk is passed over and the CD-ROM booted from', { timeout: 600_000 }, async (context) => {
  const host = await qemuDaemon(context, { images: [] });
  const folder = join(host.daemon.folder, 'media');
  await mkdir(folder, { mode: 0o755 });
  const loader = await makeLoader(folder, { words: 'CDROM BOOTS', commands: 'sleep 9999' });
  await makeBootableIso(join(folder, 'setup.iso'), folder, { sector: bootSector('by BIOS'), loader });
  await importIso(host, 'setup', join(folder, 'setup.iso'));
  await host.create('web1', {
    image: undefined,
    memoryMib: 256,
    display: 'none',
    firmware: { type: 'uefi' },
    disks: [
      { name: 'root', sizeMib: 64 },
      { name: 'cdrom', device: 'cdrom', image: 'setup' },
    ],
  });
  await eventually(async () => (await host.console('web1')).includes('CDROM BOOTS'), {
    timeoutMs: bootMs,
    describe: 'the CD-ROM boots',
  });
});
