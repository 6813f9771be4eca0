// What guests tell of themselves through the whole daemon, clocks that are set when guests go on, and an agent that stops.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const mib = 2 ** 20;
const hourMs = 3_600_000;

/** How far the guest's clock is behind, milliseconds. */
async function lag(host: QemuDaemon, vm: string): Promise<number> {
  const { clock } = await host.client.vm.guestInfo({ params: { vm }, query });
  assert.ok(clock);
  return clock.behindMs;
}

/** Waits until the guest's clock was set by nobody but Lodge. */
async function untilClockIsSet(host: QemuDaemon, vm: string): Promise<void> {
  await host.until(vm, 'has its clock set', ({ status }) => status.state === 'running' && !status.clockStaleSince);
  const behindMs = await lag(host, vm);
  // A guest under emulation on a busy host loses or gains a little.
  assert.ok(Math.abs(behindMs) < hourMs / 4, `its clock is ${behindMs} ms behind`);
}

/** Sets the guest's clock an hour back, which is what standing still for an hour does to it. */
async function setBack(host: QemuDaemon, vm: string): Promise<void> {
  const back = String(Math.floor((Date.now() - hourMs) / 1000));
  assert.equal((await host.exec(vm, ['date', '-s', `@${back}`])).code, 0);
  assert.ok((await lag(host, vm)) > hourMs / 2);
}

/** Types a line on the serial console, which needs no agent, and waits for what it prints. */
async function type(host: QemuDaemon, line: string, printed: string): Promise<void> {
  const { path } = await host.client.vm.openConsole({ params: { vm: 'web1' }, query, body: { type: 'serial' } });
  const { stream } = await host.daemon.connection.openWebSocket(path);
  stream.on('error', () => {}).resume();
  stream.write(`${line}\n`);
  await eventually(async () => (await host.console('web1')).includes(printed), {
    timeoutMs: 60_000,
    describe: `the console shows ${printed}`,
  });
  stream.destroy();
}

test('guest tools', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const { client } = host;
  const web1 = { params: { vm: 'web1' }, query };
  const disks = [
    { name: 'data', sizeMib: 64 },
    { name: 'spare', sizeMib: 32, bus: 'scsi' as const },
    { name: 'old', sizeMib: 32, bus: 'sata' as const },
  ];
  await host.create('web1', { cpu: { count: 2 }, memoryMib: 192, nics: [{ network: 'user' }], disks });
  await host.untilUp('web1');

  await context.test('its file systems and disks are told with what is used inside and on the node', async () => {
    const script =
      'mkdosfs /dev/vda && mkdir -p /mnt && mount -t vfat /dev/vda /mnt && dd if=/dev/urandom of=/mnt/f bs=1M count=8 && sync';
    const made = await host.exec('web1', ['sh', '-c', script]);
    assert.equal(made.code, 0, made.output);
    const info = await client.vm.guestInfo(web1);
    const system = info.fileSystems.find(({ mountPoint }) => mountPoint === '/mnt');
    assert.deepEqual(system?.disks, ['data']);
    assert.ok(system.usedBytes! >= 8 * mib && system.usedBytes! < 10 * mib, `${system.usedBytes} bytes are used`);
    assert.ok(system.totalBytes! > 60 * mib && system.totalBytes! <= 64 * mib);
    const named = new Map(info.disks.map((disk) => [disk.disk, disk]));
    assert.deepEqual([named.get('data')?.device, named.get('data')?.sizeMib], ['/dev/vda', 64]);
    assert.equal(named.get('data')?.usedBytes, system.usedBytes);
    assert.ok(named.get('data')!.hostBytes! >= 8 * mib, `${named.get('data')?.hostBytes} bytes on the node`);
    assert.equal(named.get('spare')?.device, '/dev/sda');
    assert.equal(named.get('spare')?.usedBytes, null);
    assert.equal(named.has('old'), false, 'a kernel without a driver for it does not see it');
  });

  await context.test('system, clock, vCPUs and interfaces are told', async () => {
    const info = await client.vm.guestInfo(web1);
    assert.deepEqual(info.vcpus, { online: 2, total: 2 });
    assert.equal(info.timeZone?.offsetS, 0);
    assert.match(info.clock!.at, /^\d{4}-/);
    assert.equal(info.hostname, 'web1');
    assert.ok(
      info.interfaces.some(({ mac }) => mac?.startsWith('52:54:00:')),
      JSON.stringify(info.interfaces),
    );
  });

  await context.test('what it measures is told beside what the node measures', async () => {
    const metrics = await client.vm.guestMetrics(web1);
    // The kernel keeps a good part for itself.
    assert.ok(metrics.memory!.totalBytes! > 50 * mib && metrics.memory!.totalBytes! < 192 * mib);
    assert.ok(metrics.memory!.availableBytes! <= metrics.memory!.totalBytes!);
    assert.equal(metrics.cpus?.length, 2);
    assert.ok(metrics.cpus[0]!.idleMs > 0);
    const disk = metrics.disks?.find(({ device }) => device === 'vda');
    assert.ok(disk!.writtenBytes! >= 8 * mib, JSON.stringify(disk));
    const nic = metrics.interfaces?.find(({ name }) => name !== 'lo');
    assert.ok(nic!.traffic.sentBytes > 0);
    // Its agent is of a version that has no load average to tell.
    assert.deepEqual(
      metrics.missing.map(({ what }) => what),
      ['load'],
    );
    const { items } = await client.vm.usage({});
    assert.ok(items.find(({ name }) => name === 'web1')!.diskWrittenBytes! >= 8 * mib);
  });

  await context.test('the clock is set when it goes on after a pause, unless its spec says no', async () => {
    await setBack(host, 'web1');
    await client.vm.pause(web1);
    const resumed = await client.vm.resume(web1);
    assert.notEqual(resumed.status.clockStaleSince, null);
    await untilClockIsSet(host, 'web1');

    const { spec, revision } = await host.vm('web1');
    await client.vm.update({ ...web1, body: { revision, spec: { ...spec, hasClockSync: false } } });
    await setBack(host, 'web1');
    await client.vm.pause(web1);
    assert.equal((await client.vm.resume(web1)).status.clockStaleSince, null);
    await eventually(async () => (await lag(host, 'web1')) > hourMs / 2, { describe: 'its clock was left alone' });
    const after = await host.vm('web1');
    assert.deepEqual(after.status.pendingChanges, []);
    await client.vm.update({
      ...web1,
      body: { revision: after.revision, spec: { ...after.spec, hasClockSync: true } },
    });
  });

  await context.test('the clock is set when it goes on from saved memory, and from a snapshot with it', async () => {
    await setBack(host, 'web1');
    await host.done(
      client.snapshot.create({ params: { vm: 'web1' }, query, body: { name: 'then', withMemory: true } }),
    );
    await host.done(client.vm.suspend(web1));
    await host.done(client.vm.start(web1));
    await untilClockIsSet(host, 'web1');

    await host.done(client.snapshot.revert({ params: { vm: 'web1', snapshot: 'then' }, query, body: { force: true } }));
    await untilClockIsSet(host, 'web1');
  });

  await context.test(
    'an agent that stands still is told as such, the guest runs on, and later calls work',
    async () => {
      await type(host, 'kill -STOP $(pidof qemu-ga) && echo is-st"op"ped', 'is-stopped');
      const stopped = await client.vm.guestInfo(web1).then(
        () => null,
        (error: unknown) => error,
      );
      assert.ok(stopped instanceof LodgeError, String(stopped));
      assert.ok(['timeout', 'agent_unavailable'].includes(stopped.code), String(stopped));
      const vm = await host.vm('web1');
      assert.equal(vm.status.state, 'running');
      // The balloon tells without the agent, so its kernel runs.
      const metrics = await client.vm.guestMetrics(web1);
      assert.notEqual(metrics.memory, null);
      await type(host, 'kill -CONT $(pidof qemu-ga) && echo go"es"-on', 'goes-on');
      await eventually(() => client.vm.guestInfo(web1).catch(() => null), {
        timeoutMs: 120_000,
        describe: 'the agent answers again',
      });
      assert.equal((await host.exec('web1', ['echo', 'back'])).output, 'back\n');
    },
  );
});
