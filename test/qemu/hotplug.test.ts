// Changes of a guest that runs, asked of the guest itself: what it sees of its processors, memory, disks and NICs after each
// change, in both directions, and after the daemon was restarted in between.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type PendingChange, type Vm } from '../../src/api/vm.ts';
import { type VmSpec } from '../../src/api/vm-spec.ts';
import { waitForTask } from '../../src/client/follow.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

/** Changes a VM's spec and waits until the guest has it, or it is said why not. */
async function change(host: QemuDaemon, name: string, to: (spec: VmSpec) => VmSpec, force = false): Promise<Vm> {
  const before = await host.vm(name);
  const body = { revision: before.revision, spec: to(before.spec) };
  const changed = await host.client.vm.update({ params: { vm: name }, query: { ...query, force }, body });
  const { taskId } = changed.status;
  if (taskId) await waitForTask(host.client, taskId, { timeoutMs: 120_000 });
  return host.vm(name);
}

/** What a program in the guest prints, when it prints what it should. */
function seen(host: QemuDaemon, command: string, isRight: (output: string) => boolean): Promise<string> {
  return eventually(
    async () => {
      const { output } = await host.exec('web1', ['sh', '-c', command]);
      return isRight(output) ? output.trim() || 'nothing' : null;
    },
    { timeoutMs: 60_000, describe: `the guest sees what ${command} should show`, intervalMs: 200 },
  );
}

const fields = (changes: readonly PendingChange[]): string[] => changes.map(({ field }) => field).toSorted();
const withDisk = (spec: VmSpec, name: string, more: object): VmSpec => ({
  ...spec,
  disks: spec.disks.map((disk) => (disk.name === name ? { ...disk, ...more } : disk)),
});

test('a guest gets and loses hardware while it runs', { timeout: 400_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await host.create('web1', {
    memoryMib: 192,
    maxMemoryMib: 1024,
    cpu: { count: 1, maxCount: 4 },
    disks: [{ name: 'first', sizeMib: 16 }],
  });
  const started = await host.untilUp('web1');
  const { pid } = started.status;
  const memoryKib = async (): Promise<number> =>
    Number(/\d+/.exec((await host.exec('web1', ['head', '-1', '/proc/meminfo'])).output)?.[0]);
  const baseKib = await memoryKib();

  await context.test('vCPUs', async () => {
    const more = await change(host, 'web1', (spec) => ({ ...spec, cpu: { ...spec.cpu, count: 3 } }));
    assert.deepEqual(more.status.pendingChanges, []);
    assert.equal(more.status.startedSpec?.cpu.count, 3);
    await seen(host, 'cat /sys/devices/system/cpu/online', (output) => output.trim() === '0-2');
    const fewer = await change(host, 'web1', (spec) => ({ ...spec, cpu: { ...spec.cpu, count: 2 } }));
    if (fewer.status.pinned?.accelerator === 'tcg') {
      assert.match(fewer.status.pendingChanges[0]?.reason ?? '', /Under emulation none can be taken out/);
      assert.equal(fewer.status.startedSpec?.cpu.count, 3);
    } else {
      assert.deepEqual(fewer.status.pendingChanges, []);
      await seen(host, 'cat /sys/devices/system/cpu/online', (output) => output.trim() === '0-1');
    }
    const now = fewer.status.startedSpec?.cpu.count ?? 0;
    const tooMany = await change(host, 'web1', (spec) => ({ ...spec, cpu: { ...spec.cpu, count: 8, maxCount: 8 } }));
    assert.deepEqual(fields(tooMany.status.pendingChanges), ['spec.cpu.count', 'spec.cpu.maxCount']);
    assert.ok(tooMany.status.pendingChanges.every(({ reason }) => reason !== ''));
    assert.equal(tooMany.status.startedSpec?.cpu.count, now);
    const back = await change(host, 'web1', (spec) => ({ ...spec, cpu: { ...spec.cpu, count: now, maxCount: 4 } }));
    assert.deepEqual(back.status.pendingChanges, []);
  });

  await context.test('memory, and the balloon', async () => {
    const more = await change(host, 'web1', (spec) => ({ ...spec, memoryMib: 448 }));
    assert.deepEqual(more.status.pendingChanges, []);
    await eventually(async () => (await memoryKib()) > baseKib + 200 * 1024, {
      timeoutMs: 60_000,
      describe: 'the guest uses the memory that was added',
      intervalMs: 200,
    });
    const less = await change(host, 'web1', (spec) => ({ ...spec, memoryMib: 192 }));
    assert.deepEqual(less.status.pendingChanges, []);
    assert.ok((await memoryKib()) <= baseKib + 1024);
    const tooLittle = await change(host, 'web1', (spec) => ({ ...spec, memoryMib: 160 }));
    assert.match(tooLittle.status.pendingChanges[0]?.reason ?? '', /192 MiB/);
    const target = await change(host, 'web1', (spec) => ({ ...spec, memoryMib: 192, memoryTargetMib: 160 }));
    assert.deepEqual(target.status.pendingChanges, []);
    await eventually(async () => (await memoryKib()) <= baseKib - 20 * 1024, {
      timeoutMs: 60_000,
      describe: 'the balloon has taken memory',
      intervalMs: 200,
    });
    await change(host, 'web1', ({ memoryTargetMib: _target, ...spec }) => spec);
  });

  await context.test('disks: added, limited, grown, refused while mounted, taken out', async () => {
    const limits = { bytesPerSecond: 4 * 2 ** 20 };
    const added = await change(host, 'web1', (spec) => ({
      ...spec,
      disks: [...spec.disks, { name: 'data', sizeMib: 64, device: 'disk', isReadOnly: false, cache: 'none', limits }],
    }));
    assert.deepEqual(added.status.pendingChanges, []);
    await seen(host, 'cat /sys/block/vdb/serial', (output) => output === 'data');
    const timed = async (): Promise<number> => {
      const begin = performance.now();
      const dd = 'dd if=/dev/zero of=/dev/vdb bs=1M count=12 oflag=direct';
      assert.equal((await host.exec('web1', ['sh', '-c', dd])).code, 0);
      return performance.now() - begin;
    };
    const limitedMs = await timed();
    assert.ok(limitedMs > 1500, `12 MiB at 4 MiB/s took ${limitedMs} ms`);
    await change(host, 'web1', (spec) => withDisk(spec, 'data', { limits: undefined, sizeMib: 96 }));
    assert.ok((await timed()) < limitedMs, 'without the limit it is faster');
    await seen(host, 'cat /sys/block/vdb/size', (output) => Number(output) === (96 * 2 ** 20) / 512);
    const volume = await host.client.volume.get({ params: { volume: 'web1-data' }, query });
    assert.equal(volume.status.virtualSizeMib, 96);

    const without = (spec: VmSpec): VmSpec => ({ ...spec, disks: spec.disks.filter(({ name }) => name !== 'data') });
    const removed = await change(host, 'web1', without);
    assert.deepEqual(removed.status.pendingChanges, []);
    await seen(host, 'ls /sys/block', (output) => !output.includes('vdb'));
    const kept = await host.client.volume.get({ params: { volume: 'web1-data' }, query });
    assert.deepEqual([kept.status.usedBy, kept.status.isOwnedByVm], [null, false], 'what was on it stays');
  });

  await context.test('NICs and USB devices, over a restart of the daemon', async () => {
    const added = await change(host, 'web1', (spec) => ({
      ...spec,
      nics: [{ network: 'default', isConnected: false }],
      usbDevices: [{ name: 'pointer', type: 'tablet' }],
    }));
    assert.deepEqual(added.status.pendingChanges, []);
    const mac = added.status.nics[0]?.mac;
    await seen(host, 'cat /sys/class/net/eth0/address', (output) => output.trim() === mac);
    await host.exec('web1', ['ip', 'link', 'set', 'eth0', 'up']);
    await seen(host, 'cat /sys/class/net/eth0/carrier', (output) => output.trim() === '0');
    // Its kernel has no drivers for USB; the controller that came with the tablet is there.
    await seen(host, 'cat /sys/bus/pci/devices/*/class', (output) => output.includes('0x0c0330'));

    await host.daemon.restart();
    await host.until('web1', 'is taken over', (vm) => vm.status.state === 'running' && vm.status.isUp);
    const plugged = await change(host, 'web1', (spec) => ({
      ...spec,
      nics: spec.nics.map((nic) => ({ ...nic, isConnected: true })),
    }));
    assert.equal(plugged.status.nics[0]?.mac, mac);
    await seen(host, 'cat /sys/class/net/eth0/carrier', (output) => output.trim() === '1');
    const first = await change(host, 'web1', (spec) => ({ ...spec, disks: [], usbDevices: [], nics: [] }));
    assert.deepEqual(first.status.pendingChanges, []);
    await seen(host, 'ls /sys/class/net /sys/block', (output) => !/eth0|vda/.test(output));
  });

  await context.test('goes on from its saved memory with what was added', async () => {
    await change(host, 'web1', (spec) => ({
      ...spec,
      memoryMib: 320,
      disks: [{ name: 'late', sizeMib: 8, device: 'disk', isReadOnly: false, cache: 'writeback' }],
    }));
    assert.equal((await host.vm('web1')).status.pid, pid, 'it is one process all the time');
    await host.done(host.client.vm.suspend({ params: { vm: 'web1' }, query }));
    await host.done(host.client.vm.start({ params: { vm: 'web1' }, query }));
    const restored = await host.until('web1', 'runs again', (vm) => vm.status.state === 'running');
    assert.deepEqual(restored.status.pendingChanges, []);
    await seen(host, 'cat /sys/block/*/serial', (output) => output.includes('late'));
    const vcpus = restored.status.startedSpec?.cpu.count ?? 0;
    await seen(host, 'cat /sys/devices/system/cpu/online', (output) => output.trim() === `0-${vcpus - 1}`);
    const without = await change(host, 'web1', (spec) => ({ ...spec, disks: [], memoryMib: 192 }));
    assert.deepEqual(without.status.pendingChanges, []);
    await seen(host, 'ls /sys/block', (output) => !output.includes('vd'));
  });
});

test(
  'a microvm says what it can not change while it runs, and a restart changes it',
  { timeout: 200_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    await host.create('web1', { machine: 'microvm', memoryMib: 192, disks: [{ name: 'data', sizeMib: 16 }] });
    await host.untilUp('web1');
    const changed = await change(host, 'web1', (spec) => ({
      ...withDisk(spec, 'data', { sizeMib: 32 }),
      memoryMib: 256,
      nics: [{ network: 'user', isConnected: true }],
    }));
    assert.deepEqual(fields(changed.status.pendingChanges), ['spec.memoryMib', 'spec.nics.0']);
    await seen(host, 'cat /sys/block/vda/size', (output) => Number(output) === (32 * 2 ** 20) / 512);
    await host.done(host.client.vm.restart({ params: { vm: 'web1' }, query, body: { timeoutS: 30 } }));
    const restarted = await host.untilUp('web1');
    assert.deepEqual(restarted.status.pendingChanges, []);
    assert.equal(restarted.status.startedSpec?.memoryMib, 256);
    await seen(host, 'ls /sys/class/net', (output) => output.includes('eth0'));
  },
);
