// From nothing to a guest's userspace: `create + start` through Lodge's API, against the same guest from a QEMU command
// line written by hand, and against libvirt's `virsh define + start`. The end is the same for all: the guest's own line
// "lodge: ready" on its serial console. Run: node bench/start.ts [rounds]
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { waitForTask } from '../src/client/follow.ts';
import { CommandError, run } from '../src/host/command.ts';
import { cacheDir } from '../src/host/image/cache.ts';
import { buildTiny } from '../src/host/image/tiny.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { tinyImage } from '../test/support/qemu.ts';
import { eventually } from '../test/support/wait.ts';
import { temporaryFolder } from '../test/support/temporary.ts';
import { benchmark, compare, printComparison, type Contender } from './measure.ts';

const rounds = Number(process.argv[2] ?? 9);
const memoryMib = 256;
const readyLine = 'lodge: ready';

async function untilReady(serialLog: () => string, startedAt: number): Promise<number> {
  for (const deadline = startedAt + 60_000; performance.now() < deadline; await delay(3)) {
    try {
      if (readFileSync(serialLog(), 'latin1').includes(readyLine)) return performance.now() - startedAt;
    } catch {
      // It is not there yet.
    }
  }
  throw new Error(`no "${readyLine}" within a minute`);
}

await benchmark(async (scope) => {
  const image = await tinyImage();
  // The daemon's namespace has no way out: what it would download is put into its cache before.
  await buildTiny({ outDir: join(cacheDir(), 'images/tiny'), cacheDir: cacheDir() });
  const folder = await temporaryFolder(scope);
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  const built = await client.image.create({
    body: { name: 'tiny', spec: { source: { type: 'build', recipe: 'tiny' } } },
  });
  await waitForTask(client, built.id);
  const network = await eventually(
    async () => {
      const found = await client.network.get({ params: { network: 'default' } });
      return found.status.state === 'ready' ? found : null;
    },
    { describe: 'the default network is ready' },
  );

  const lodge: Contender = {
    name: 'Lodge, create + start',
    once: async (round) => {
      const startedAt = performance.now();
      const task = await client.vm.create({
        query: { start: true },
        body: { name: `bench-${round}`, spec: { image: 'tiny', memoryMib } },
      });
      const ms = await untilReady(() => join(daemon.folder, 'data/vms', task.target.id, 'qemu/serial.log'), startedAt);
      await waitForTask(client, task.id);
      await waitForTask(
        client,
        (await client.vm.delete({ params: { vm: task.target.id }, query: { force: true } })).id,
      );
      return ms;
    },
  };

  // The same devices on the same bridge, as somebody who knows QEMU would write them.
  const tap = 'benchtap0';
  await namespace.run(['ip', 'tuntap', 'add', 'dev', tap, 'mode', 'tap', 'vnet_hdr']);
  await namespace.run(['ip', 'link', 'set', 'dev', tap, 'master', network.status.bridge!, 'up']);
  const byHand: Contender = {
    name: 'QEMU by hand',
    once: async () => {
      const serial = join(folder, 'hand.log');
      rmSync(serial, { force: true });
      const argv = namespace.command([
        'qemu-system-x86_64',
        '-nodefaults',
        '-no-user-config',
        '-machine',
        'q35',
        '-accel',
        'tcg',
        '-cpu',
        'max',
        '-smp',
        '1',
        '-m',
        `${memoryMib}`,
        '-kernel',
        image.kernelPath,
        '-initrd',
        image.initramfsPath,
        '-append',
        image.manifest.commandLine!,
        '-netdev',
        `tap,id=n0,ifname=${tap},script=no,downscript=no`,
        '-device',
        'virtio-net-pci,netdev=n0,romfile=',
        '-device',
        'virtio-rng-pci',
        '-device',
        'virtio-balloon-pci',
        '-device',
        'virtio-serial-pci',
        '-chardev',
        `socket,id=a0,path=${join(folder, 'hand-agent.sock')},server=on,wait=off`,
        '-device',
        'virtserialport,chardev=a0,name=org.qemu.guest_agent.0',
        '-display',
        'none',
        '-serial',
        `file:${serial}`,
      ]);
      const startedAt = performance.now();
      const child = spawn(argv[0], argv.slice(1), { stdio: 'ignore' });
      const exited = once(child, 'exit');
      try {
        return await untilReady(() => serial, startedAt);
      } finally {
        child.kill('SIGKILL');
        await exited;
      }
    },
  };

  const contenders = [byHand, lodge];
  const virsh = await libvirt(scope, folder, image);
  if (virsh) contenders.push(virsh);
  else console.log('libvirt is not installed (libvirt-daemon-system, libvirt-clients): virsh is left out');
  printComparison(
    `Start of tiny to userspace, ${memoryMib} MiB, TCG, ${rounds} rounds`,
    await compare(contenders, rounds),
    byHand.name,
  );
});

/**
 * Gives the mount namespace of a process a /dev/kvm with the rights that udev gives it, and answers with the words that
 * start a program in there. Where udev doesn't run, libvirt's user can't open it; libvirt then takes what it has learnt
 * of QEMU for outdated at every call, and asks QEMU again, which takes longer than starting a guest. The guest itself is
 * emulated all the same.
 */
async function withUsableKvm(pid: number, folder: string): Promise<[string, ...string[]]> {
  const ownView = readlinkSync('/proc/self/ns/mnt');
  await eventually(() => Promise.resolve(readlinkSync(`/proc/${pid}/ns/mnt`) !== ownView), {
    describe: 'the mount namespace for libvirt is there',
  });
  const inView: [string, ...string[]] = ['nsenter', '--target', `${pid}`, '--mount'];
  if (!existsSync('/dev/kvm')) return inView;
  const devices = join(folder, 'devices');
  const node = join(devices, 'kvm');
  for (const argv of [
    ['mkdir', devices],
    ['mount', '-t', 'tmpfs', 'devices', devices],
    ['mknod', '-m', '0666', node, 'c', '10', '232'],
    ['mount', '--bind', node, '/dev/kvm'],
  ])
    await run([...inView, ...argv]);
  return inView;
}

/** libvirt's daemon with folders of its own, and a contender that defines and starts the guest through virsh. */
async function libvirt(
  scope: Parameters<Parameters<typeof benchmark>[0]>[0],
  folder: string,
  image: Awaited<ReturnType<typeof tinyImage>>,
): Promise<Contender | null> {
  try {
    await run(['virsh', '--version']);
    await run(['libvirtd', '--version']);
  } catch (error) {
    if (error instanceof CommandError && error.reason === 'missing') return null;
    throw error;
  }
  const config = join(folder, 'libvirtd.conf');
  const socketFolder = join(folder, 'libvirt');
  await run(['mkdir', '-p', socketFolder]);
  writeFileSync(config, `unix_sock_dir = "${socketFolder}"\nlog_outputs = "4:file:${join(folder, 'libvirtd.log')}"\n`);
  const start = (program: string, ...args: string[]): number => {
    const child = spawn(program, args, { stdio: 'ignore' });
    const exited = once(child, 'exit');
    scope.after(async () => {
      child.kill('SIGTERM');
      await exited;
    });
    return child.pid!;
  };
  const inView = await withUsableKvm(start('unshare', '--mount', 'sleep', 'infinity'), folder);
  // It hands the guests' output to virtlogd, which has one place only.
  start('virtlogd', '--pid-file', join(folder, 'virtlogd.pid'));
  start(inView[0], ...inView.slice(1), 'libvirtd', '--config', config, '--pid-file', join(folder, 'libvirtd.pid'));
  const uri = `qemu:///system?socket=${join(socketFolder, 'libvirt-sock')}`;
  const virsh = (...args: string[]): Promise<unknown> =>
    run(['virsh', '-q', '-c', uri, ...args], { timeoutMs: 180_000 });
  for (let attempt = 0; ; attempt++) {
    try {
      await virsh('version');
      break;
    } catch (error) {
      if (attempt > 100) throw error;
      await delay(100);
    }
  }
  const name = `lodge-bench-${process.pid}`;
  const serial = join(folder, 'virsh.log');
  const definition = join(folder, 'domain.xml');
  writeFileSync(
    definition,
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>${memoryMib}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>${image.kernelPath}</kernel><initrd>${image.initramfsPath}</initrd><cmdline>${image.manifest.commandLine}</cmdline></os>
<features><acpi/></features><cpu mode='maximum'/>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='file'><source path='${serial}'/><target port='0'/></serial>
<interface type='user'><model type='virtio'/><rom enabled='no'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>
</devices><seclabel type='none'/></domain>`,
  );
  // libvirt asks every installed QEMU for its abilities before the first definition; not counted.
  await virsh('define', definition);
  await virsh('undefine', name);
  return {
    name: 'virsh define + start',
    once: async () => {
      rmSync(serial, { force: true });
      const startedAt = performance.now();
      await virsh('define', definition);
      try {
        await virsh('start', name);
        return await untilReady(() => serial, startedAt);
      } finally {
        await virsh('destroy', name).catch(() => {});
        await virsh('undefine', name).catch(() => {});
      }
    },
  };
}
