// The guest image `tiny`, built here from Debian's packages and booted on every machine type: it reports itself, gets
// an address, does what its agent is asked, and goes when its power button is pressed.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { AgentClient } from '../../src/drivers/qemu/agent/client.ts';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { readManifest } from '../../src/host/image/manifest.ts';
import { buildTiny } from '../../src/host/image/tiny.ts';
import { startBareQemu, type BareQemu } from '../support/bare-qemu.ts';
import { atEnd } from '../support/cleanup.ts';
import { tinyImage } from '../support/qemu.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const BOOT = { timeoutMs: 60_000 };

interface Guest {
  qemu: BareQemu;
  agent: AgentClient;
  qmp: QmpClient;
  serial: { text: string; socket: Socket };
}

async function timing(machine: string): Promise<string> {
  if (!machine.startsWith('microvm')) return '';
  const mhz = /^cpu MHz\s*: ([\d.]+)/m.exec(await readFile('/proc/cpuinfo', 'utf8'))?.[1];
  return `tsc_early_khz=${Math.round(Number(mhz) * 1000)}`;
}

/** `bus` is the ending of virtio devices' names: pci, or device for virtio-mmio. */
async function boot(
  context: TestContext,
  machine: string,
  bus: 'pci' | 'device',
  extra: string[] = [],
): Promise<Guest> {
  const image = await tinyImage();
  const qemu = await startBareQemu(context, async (folder) =>
    ['-M', machine, '-accel', 'tcg', '-m', String(image.manifest.minMemoryMib), '-S'].concat(
      ['-kernel', image.kernelPath, '-initrd', image.initramfsPath],
      ['-append', `${image.manifest.commandLine} lodge.hostname=ignored ${await timing(machine)}`],
      ['-fw_cfg', 'name=opt/lodge/hostname,string=web1'],
      [
        '-chardev',
        `socket,id=serial0,server=on,wait=off,path=${join(folder, 'serial.sock')}`,
        '-serial',
        'chardev:serial0',
      ],
      ['-chardev', `socket,id=agent0,server=on,wait=off,path=${join(folder, 'agent.sock')}`],
      ['-device', `virtio-serial-${bus}`, '-device', 'virtserialport,chardev=agent0,name=org.qemu.guest_agent.0'],
      ['-netdev', 'user,id=net0', '-device', `virtio-net-${bus},netdev=net0`, '-device', `virtio-rng-${bus}`],
      extra,
    ),
  );
  const socket = connect(join(qemu.folder, 'serial.sock'));
  await once(socket, 'connect');
  const serial = { text: '', socket };
  socket.on('data', (chunk: Buffer) => (serial.text += chunk.toString('utf8')));
  socket.on('error', () => {});
  const qmp = await QmpClient.connect(qemu.qmpPath);
  const agent = new AgentClient(join(qemu.folder, 'agent.sock'), { syncTimeoutMs: 1000 });
  atEnd(context, () => {
    agent.close();
    qmp.close();
    socket.destroy();
  });
  await qmp.execute('cont');
  return { qemu, agent, qmp, serial };
}

const addresses = async (agent: AgentClient): Promise<string[]> =>
  (await agent.call('guest-network-get-interfaces', undefined))
    .filter(({ name }) => name !== 'lo')
    .flatMap((one) => one['ip-addresses'] ?? [])
    .map((address) => address['ip-address']);

for (const [machine, bus] of [
  ['q35', 'pci'],
  ['pc', 'pci'],
  // A microvm under TCG needs two things. pic=off: else the timer that calibrates the TSC raises interrupt 0, for which
  // there is no handler, and half of the boots end in a panic. The TSC's frequency (timing() below): else a busy host
  // lets that calibration fail, and without another clock the guest stands still.
  ['microvm,acpi=on,pic=off', 'device'],
] as const) {
  test(`tiny on ${machine} reports itself, has name and address, and leaves at the power button`, async (context) => {
    const { qemu, agent, qmp, serial } = await boot(context, machine, bus);
    await eventually(() => serial.text.includes('lodge: ready (web1,'), { ...BOOT, describe: 'the ready line' });
    await eventually(() => agent.call('guest-ping', undefined).then(() => true), { ...BOOT, describe: 'the agent' });
    assert.equal((await agent.call('guest-get-host-name', undefined))['host-name'], 'web1');
    assert.equal((await agent.call('guest-get-osinfo', undefined)).id, 'lodge-tiny');
    await eventually(async () => (await addresses(agent)).includes('10.0.2.15'), { ...BOOT, describe: 'an address' });
    const exited = once(qemu.child, 'exit');
    await qmp.execute('system_powerdown');
    assert.deepEqual(await exited, [0, null]);
  });
}

test('a network card that is plugged in gets an address, and gives it up when it is pulled', async (context) => {
  const { agent, qmp } = await boot(context, 'q35', 'pci', [
    '-device',
    'pcie-root-port,id=port1',
    '-netdev',
    'user,id=net1,net=10.9.0.0/24',
  ]);
  await eventually(() => agent.call('guest-ping', undefined).then(() => true), { ...BOOT, describe: 'the agent' });
  await qmp.execute('device_add', { driver: 'virtio-net-pci', id: 'nic1', netdev: 'net1', bus: 'port1' });
  await eventually(async () => (await addresses(agent)).includes('10.9.0.15'), {
    ...BOOT,
    describe: 'the second address',
  });
  const removed = qmp.waitForEvent('DEVICE_DELETED', (event) => event.data.device === 'nic1', 30_000);
  await qmp.execute('device_del', { id: 'nic1' });
  await removed;
  await eventually(async () => !(await addresses(agent)).includes('10.9.0.15'), {
    ...BOOT,
    describe: 'the address is gone',
  });
});

test('the console is a root shell with job control, and poweroff there ends the guest', async (context) => {
  const { qemu, serial } = await boot(context, 'pc', 'pci');
  const says = (text: string): Promise<boolean> =>
    eventually(() => serial.text.includes(text), { ...BOOT, describe: text });
  await says('web1:/root# ');
  serial.socket.write('echo answer-$((6*7)) $(id -u)\n');
  await says('answer-42 0');
  serial.socket.write('sleep 1000\n');
  await says('sleep 1000');
  await eventually(
    async () => {
      // Ctrl-C reaches the program in the foreground once it is there.
      serial.socket.write('\x03');
      serial.socket.write('echo back-$((1+1))\n');
      return eventually(() => serial.text.includes('back-2'), { timeoutMs: 5000, describe: 'the prompt is back' });
    },
    { ...BOOT, describe: 'Ctrl-C ends the program' },
  );
  const exited = once(qemu.child, 'exit');
  serial.socket.write('poweroff\n');
  assert.deepEqual(await exited, [0, null]);
});

test('the agent shuts the guest down', async (context) => {
  const { qemu, agent } = await boot(context, 'pc', 'pci');
  await eventually(() => agent.call('guest-ping', undefined).then(() => true), { ...BOOT, describe: 'the agent' });
  const exited = once(qemu.child, 'exit');
  await agent.call('guest-shutdown', { mode: 'powerdown' }, { silenceMs: 5000 });
  assert.deepEqual(await exited, [0, null]);
});

test('the same sources give the same image, a folder is replaced as a whole, and a cancelled build leaves it alone', async (context) => {
  const folder = await temporaryFolder(context);
  const outDir = join(folder, 'tiny');
  const options = { outDir, cacheDir: join((await tinyImage()).folder, '../packages') };
  const first = await buildTiny(options);
  const steps: number[] = [];
  const again = await buildTiny({ ...options, refresh: true, onProgress: ({ percent }) => steps.push(percent) });
  assert.deepEqual(again, first);
  assert.deepEqual(
    steps,
    steps.toSorted((a, b) => a - b),
  );
  assert.equal(steps.at(-1), 100);
  assert.deepEqual((await readdir(outDir)).toSorted(), ['initramfs.cpio', 'manifest.json', 'vmlinux']);
  assert.deepEqual(await readManifest(outDir, 'sha256'), first);

  const abort = new AbortController();
  const cancelled = buildTiny({
    ...options,
    refresh: true,
    signal: abort.signal,
    onProgress: ({ percent }) => {
      if (percent >= 30) abort.abort();
    },
  });
  await assert.rejects(cancelled, { problem: 'aborted' });
  assert.deepEqual(await readdir(folder), ['tiny']);
  assert.ok((await readFile(join(outDir, 'manifest.json'))).length > 0);
});
