// Booting over a network of Lodge's own: what its DHCP tells and its TFTP serves is what runs in the guest, by BIOS (iPXE in
// the NIC's ROM) and by UEFI.
import assert from 'node:assert/strict';
import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type NetworkBoot } from '../../src/api/network.ts';
import { run } from '../../src/host/command.ts';
import { bootSector, makeBiosDisk } from '../support/boot-sector.ts';
import { atEnd } from '../support/cleanup.ts';
import { makeLoader } from '../support/efi-disk.ts';
import { bootableKernel, tinyImage } from '../support/qemu.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const bootMs = 300_000;

/** A folder that dnsmasq, which has no privileges, can read. */
async function tftpFolder(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-tftp-'));
  atEnd(context, () => rm(folder, { recursive: true, force: true }));
  await chmod(folder, 0o755);
  return folder;
}

async function lab(host: QemuDaemon, boot: NetworkBoot): Promise<void> {
  const spec = { mode: 'nat', ipv4Cidr: '10.98.0.0/24', boot } as const;
  await host.client.network.create({ body: { name: 'lab', spec } });
}

async function untilSaid(host: QemuDaemon, vm: string, words: string): Promise<void> {
  await eventually(async () => (await host.console(vm)).includes(words), {
    timeoutMs: bootMs,
    describe: `${vm} says ${words}`,
  });
}

test('a BIOS guest without a disk boots a kernel by iPXE, and another boots a program once', async (context) => {
  const host = await qemuDaemon(context, { images: [] });
  const folder = await tftpFolder(context);
  const { manifest, initramfsPath } = await tinyImage();
  await copyFile(await bootableKernel(), join(folder, 'vmlinuz'));
  await run(['sh', '-c', 'gzip -1 <"$1" >"$2"', 'sh', initramfsPath, join(folder, 'initramfs.gz')]);
  const script = ['#!ipxe', `kernel vmlinuz ${manifest.commandLine}`, 'initrd initramfs.gz', 'boot', ''];
  await writeFile(join(folder, 'boot.ipxe'), script.join('\n'));
  await lab(host, { file: 'boot.ipxe', tftpFolder: folder });
  await host.create('diskless', {
    image: undefined,
    memoryMib: 256,
    display: 'none',
    firmware: { type: 'bios' },
    nics: [{ network: 'lab', bootIndex: 1 }],
  });
  const { status } = await host.until('diskless', 'is up', (vm) => vm.status.isUp, bootMs);
  assert.equal(status.pinned?.firmware, 'bios');
  await host.done(host.client.vm.forceOff({ params: { vm: 'diskless' }, query }));

  // Another NIC, in a VM that boots from its disk but for this once.
  await writeFile(join(folder, 'program.bin'), bootSector('NETWORK BOOTS', { isResetting: true }));
  const network = await host.client.network.get({ params: { network: 'lab' } });
  const spec = { ...network.spec, boot: { file: 'program.bin', tftpFolder: folder } };
  await host.client.network.update({ params: { network: 'lab' }, body: { spec } });
  const media = join(host.daemon.folder, 'media');
  await mkdir(media, { mode: 0o755 });
  await makeBiosDisk(join(media, 'disk.img'), 'DISK BOOTS');
  const source = { type: 'file', path: join(media, 'disk.img'), format: 'raw' } as const;
  await host.done(host.client.image.create({ body: { name: 'installed', spec: { source } } }));
  const params = { vm: 'web1' };
  await host.create(
    'web1',
    {
      image: 'installed',
      memoryMib: 128,
      display: 'none',
      firmware: { type: 'bios' },
      nics: [{ network: 'lab', model: 'e1000' }],
    },
    false,
  );
  await host.done(host.client.vm.start({ params, query, body: { bootOnce: 'network' } }));
  await untilSaid(host, 'web1', 'DISK BOOTS');
  assert.match(await host.console('web1'), /NETWORK BOOTS[^]*DISK BOOTS/);
  // The NIC has its boot ROM this once, and its memory goes on with it, although the spec asks for none.
  await host.done(host.client.vm.suspend({ params, query }));
  await host.done(host.client.vm.start({ params, query }));
  assert.equal((await host.vm('web1')).status.state, 'running');
});

test('a UEFI guest boots a program from the network', async (context) => {
  const host = await qemuDaemon(context, { images: [] });
  const folder = await tftpFolder(context);
  const loader = await makeLoader(folder, { name: 'network', words: 'NETWORK BOOTS', commands: 'sleep 9999' });
  await chmod(loader, 0o644);
  await lab(host, { uefiFile: 'network.efi', tftpFolder: folder });
  await host.create('web1', {
    image: undefined,
    memoryMib: 256,
    display: 'none',
    firmware: { type: 'uefi' },
    nics: [{ network: 'lab', bootIndex: 1 }],
  });
  await untilSaid(host, 'web1', 'NETWORK BOOTS');
});
