// The Debian images, built here and booted by BIOS and by UEFI: cloud-init takes the seed, the agent and ssh answer, the
// disk has grown, and nothing of the machine that built them is inside. Slow: minutes a boot without hardware
// virtualization, and a build takes two more; so it is not part of `npm test`. Needs root.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFile, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { AgentClient } from '../../src/drivers/qemu/agent/client.ts';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { run } from '../../src/host/command.ts';
import { buildDebian } from '../../src/host/image/debian.ts';
import { readManifest } from '../../src/host/image/manifest.ts';
import { buildSeed, hashPassword } from '../../src/host/image/seed.ts';
import { createOverlay } from '../../src/host/image/volume.ts';
import { composeMetaData, composeNetworkConfig, composeUserData } from '../../src/lib/cloud-config.ts';
import { startBareQemu, type BareQemu } from '../support/bare-qemu.ts';
import { atEnd } from '../support/cleanup.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const MAC = '52:54:00:12:34:56';
const OVMF = '/usr/share/OVMF';
const cache = join(import.meta.dirname, '../../.lodge/test');

interface Guest {
  qemu: BareQemu;
  qmp: QmpClient;
  agent: AgentClient;
}

async function boot(
  context: TestContext,
  disk: string,
  seed: string,
  firmware: 'bios' | 'uefi',
  machine: string,
): Promise<Guest> {
  const qemu = await startBareQemu(context, async (folder) => {
    await copyFile(join(OVMF, 'OVMF_VARS_4M.fd'), join(folder, 'vars.fd'));
    const uefi = [
      ['-drive', `if=pflash,format=raw,readonly=on,file=${OVMF}/OVMF_CODE_4M.fd`],
      ['-drive', `if=pflash,format=raw,file=${join(folder, 'vars.fd')}`],
    ].flat();
    return ['-M', machine, '-accel', 'tcg', '-m', '1024', '-smp', '2', ...(firmware === 'uefi' ? uefi : [])].concat(
      ['-drive', `if=none,id=root,format=qcow2,file=${disk}`, '-device', 'virtio-blk-pci,drive=root'],
      [
        '-drive',
        `if=none,id=seed,format=raw,readonly=on,file=${seed}`,
        '-device',
        'virtio-scsi-pci',
        '-device',
        'scsi-cd,drive=seed',
      ],
      ['-chardev', `socket,id=agent0,server=on,wait=off,path=${join(folder, 'agent.sock')}`],
      ['-device', 'virtio-serial-pci', '-device', 'virtserialport,chardev=agent0,name=org.qemu.guest_agent.0'],
      ['-serial', `file:${join(folder, 'serial.log')}`, '-device', 'virtio-rng-pci'],
      ['-netdev', 'user,id=net0,hostfwd=tcp:127.0.0.1:0-:22', '-device', `virtio-net-pci,netdev=net0,mac=${MAC}`],
    );
  });
  const qmp = await QmpClient.connect(qemu.qmpPath);
  const agent = new AgentClient(join(qemu.folder, 'agent.sock'), { syncTimeoutMs: 3000 });
  atEnd(context, () => {
    agent.close();
    qmp.close();
  });
  return { qemu, qmp, agent };
}

/** Runs a line in the guest's shell; what it said. */
async function inGuest(agent: AgentClient, line: string, timeoutMs = 60_000): Promise<string> {
  const { pid } = await agent.call('guest-exec', { path: '/bin/sh', arg: ['-c', line], 'capture-output': true });
  const status = await eventually(
    async () => {
      const now = await agent.call('guest-exec-status', { pid });
      return now.exited ? now : null;
    },
    { timeoutMs, intervalMs: 250, describe: `${line} has ended` },
  );
  return Buffer.from(status['out-data'] ?? '', 'base64')
    .toString('utf8')
    .trim();
}

for (const [release, version, machine, firmware] of [
  ['bookworm', '12', 'q35', 'uefi'],
  ['bookworm', '12', 'pc', 'bios'],
  ['trixie', '13', 'q35', 'bios'],
  ['trixie', '13', 'q35', 'uefi'],
] as const) {
  test(`debian-${version} boots by ${firmware} on ${machine}, is set up by its seed, and answers`, async (context) => {
    const image = join(cache, `debian-${version}`);
    await buildDebian({ release, outDir: image });
    const manifest = await readManifest(image);
    const folder = await temporaryFolder(context);
    const disk = join(folder, 'disk.qcow2');
    await createOverlay({
      path: disk,
      backingPath: join(image, 'disk.qcow2'),
      backingFormat: 'qcow2',
      sizeBytes: 8 * 2 ** 30,
    });
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', join(folder, 'key')]);
    const seed = join(folder, 'seed.iso');
    await buildSeed(
      {
        metaData: composeMetaData({ instanceId: 'i-1', hostname: 'web1' }),
        userData: composeUserData({
          hostname: 'web1',
          sshAuthorizedKeys: [await readFile(join(folder, 'key.pub'), 'utf8')],
          passwordHash: await hashPassword('secret'),
          runCommands: ['echo done > /root/ran'],
        }),
        networkConfig: composeNetworkConfig([{ macAddress: MAC }]),
      },
      seed,
    );
    const { qemu, qmp, agent } = await boot(context, disk, seed, firmware, machine);
    await eventually(() => agent.call('guest-ping', undefined).then(() => true), {
      timeoutMs: 600_000,
      intervalMs: 500,
      describe: 'the agent answers',
    });
    const cloudInit = await inGuest(agent, 'cloud-init status --wait --long', 600_000);
    assert.match(cloudInit, /^status: done$/m, cloudInit);
    assert.match(cloudInit, /NoCloud/);
    assert.equal(await inGuest(agent, 'hostname; cat /root/ran'), 'web1\ndone');
    assert.equal(await inGuest(agent, '[ -d /sys/firmware/efi ] && echo uefi || echo bios'), firmware);
    assert.equal(await inGuest(agent, 'uname -r'), manifest?.kernelVersion);
    assert.equal(await inGuest(agent, '. /etc/os-release; echo $VERSION_ID'), version);
    assert.ok(
      Number(await inGuest(agent, 'df --output=size -B1 / | tail -1')) > 7 * 2 ** 30,
      'the root file system has not grown',
    );
    assert.equal(await inGuest(agent, 'systemctl --failed --no-legend'), '');
    // Nothing of the machine that built it; the keys and the id are this guest's own.
    assert.match(await inGuest(agent, 'cat /etc/machine-id'), /^[0-9a-f]{32}$/);
    const sources = await inGuest(agent, 'grep -rhoE "https?://[^ ]+" /etc/apt | sort -u');
    assert.equal(sources, 'http://deb.debian.org/debian\nhttp://deb.debian.org/debian-security');
    assert.equal(await inGuest(agent, `grep -lwF ${hostname()} /etc/hosts /etc/hostname 2>/dev/null || true`), '');

    const usernet = await qmp.execute('human-monitor-command', { 'command-line': 'info usernet' });
    const port = /HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)/.exec(usernet)?.[1];
    assert.ok(port, 'QEMU names no forwarded port');
    const options = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null'].flatMap((one) => [
      '-o',
      one,
    ]);
    const { stdout } = await run(
      ['ssh', '-i', join(folder, 'key'), ...options, '-p', port, 'debian@127.0.0.1', 'sudo id -un'],
      { timeoutMs: 120_000 },
    );
    assert.equal(stdout.trim(), 'root');

    const exited = once(qemu.child, 'exit');
    await qmp.execute('system_powerdown');
    assert.deepEqual(await exited, [0, null]);
  });
}
