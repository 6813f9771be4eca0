// Which device a guest is booted from, by BIOS and by UEFI: seen on its serial console, where each device says its name.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { bootSector, makeBiosDisk, makeBootableIso } from '../support/boot-sector.ts';
import { makeEfiDisk, makeLoader } from '../support/efi-disk.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const bootMs = 240_000;

for (const firmware of ['bios', 'uefi'] as const) {
  test(
    `${firmware}: the boot order counts, and another device is booted from once`,
    { timeout: 900_000 },
    async (context) => {
      const host = await qemuDaemon(context, { images: [] });
      const { client } = host;
      const params = { vm: 'web1' };
      const folder = join(host.daemon.folder, 'media');
      await mkdir(folder, { mode: 0o755 });
      const [disk, iso] = [join(folder, 'disk.img'), join(folder, 'setup.iso')];
      // The CD-ROM resets the machine: which device comes after that is the boot order's choice again.
      const loader = await makeLoader(folder, { name: 'cdrom', words: 'CDROM BOOTS', commands: 'reboot' });
      await makeBootableIso(iso, folder, { sector: bootSector('CDROM BOOTS', { isResetting: true }), loader });
      if (firmware === 'bios') await makeBiosDisk(disk, 'DISK BOOTS');
      else
        await makeEfiDisk(
          disk,
          await makeLoader(folder, { name: 'disk', words: 'DISK BOOTS', commands: 'sleep 9999' }),
        );
      for (const [name, path, format] of [
        ['installed', disk, 'raw'],
        ['setup', iso, 'iso'],
      ] as const) {
        const source = { type: 'file', path, format } as const;
        await host.done(client.image.create({ body: { name, spec: { source } } }));
      }
      /** Which devices have said their name so far. */
      const all = async (): Promise<string[]> => {
        const log = await (await client.vm.serialLog({ params, query: { ...query, bytes: 262_144 } })).text();
        return [...log.matchAll(/(DISK|CDROM) BOOTS/g)].map((match) => match[1]!);
      };
      let seen = 0;
      /** The next that do. */
      const booted = (count: number): Promise<string[]> =>
        eventually(
          async () => {
            const names = (await all()).slice(seen, seen + count);
            return names.length < count ? null : names;
          },
          { timeoutMs: bootMs, describe: `${count} devices are booted from` },
        );
      await host.create(
        'web1',
        {
          image: 'installed',
          memoryMib: 256,
          display: 'none',
          firmware: { type: firmware },
          disks: [
            { name: 'root', image: 'installed' },
            { name: 'setup', device: 'cdrom', image: 'setup' },
          ],
        },
        false,
      );
      await host.done(client.vm.start({ params, query, body: { bootOnce: 'cdrom' } }));
      const { status } = await host.vm('web1');
      assert.equal(status.bootedOnceFrom, 'cdrom');
      assert.deepEqual(await booted(2), ['CDROM', 'DISK'], 'the CD-ROM once, and the disk when the machine is reset');

      await host.change('web1', (spec) => ({
        ...spec,
        disks: spec.disks.map((one) => (one.name === 'setup' ? { ...one, bootIndex: 1 } : one)),
      }));
      assert.equal((await host.vm('web1')).status.startedSpec?.disks[1]?.bootIndex, 1);
      seen = (await all()).length;
      await client.vm.reset({ params, query });
      assert.deepEqual(await booted(1), ['CDROM'], 'the CD-ROM is the first now');
      await host.done(client.vm.forceOff({ params, query }));
      assert.equal((await host.vm('web1')).status.bootedOnceFrom, null);
      // UEFI takes seconds for each boot; the rest of the way is the same.
      if (firmware === 'uefi') return;

      seen = (await all()).length;
      await host.done(client.vm.start({ params, query, body: { bootOnce: 'root' } }));
      assert.deepEqual(await booted(1), ['DISK'], 'a disk by its name, before the CD-ROM');
      await client.vm.reset({ params, query });
      assert.deepEqual(await booted(3), ['DISK', 'CDROM', 'CDROM'], 'and then the CD-ROM again, each time');
    },
  );
}
