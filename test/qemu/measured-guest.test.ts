// What is measured of a real guest: how long its disks take, how its memory is made up, what Prometheus is told.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DiskLatency, type LatencyCounts } from '../../src/api/vm-latency.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const params = { vm: 'measured' };
const sum = ({ counts }: LatencyCounts): number => counts.reduce((all, count) => all + count, 0);

/** The lines of the metrics that begin so. */
async function metrics(host: QemuDaemon, start: string): Promise<string[]> {
  const text = await (await host.client.server.metrics()).text();
  return text.split('\n').filter((line) => line.startsWith(start));
}

test('what a guest does is measured', async (t) => {
  const host = await qemuDaemon(t);
  await host.create('measured', {
    disks: [
      { name: 'other', sizeMib: 64 },
      { name: 'data', sizeMib: 64 },
    ],
    balloon: 'virtio',
  });
  await host.untilUp('measured');

  await t.test('each write of a disk is in its histogram, and in that of no other disk', async () => {
    const before = await eventually(async () => (await host.client.vm.diskLatency({ params })).disks, {
      describe: 'the hypervisor has told',
    });
    const { output } = await host.exec('measured', ['sh', '-c', 'ls /dev/vd* | tail -n 1']);
    const device = output.trim();
    const written = await host.exec('measured', [
      'dd',
      'if=/dev/zero',
      `of=${device}`,
      'bs=64k',
      'count=50',
      'oflag=direct',
    ]);
    assert.equal(written.code, 0, written.output);
    const after = (await host.client.vm.diskLatency({ params })).disks;
    assert.ok(after);
    assert.deepEqual(after.map(({ disk }) => disk).toSorted(), ['data', 'other']);
    const of = (disk: string, all: readonly DiskLatency[]): LatencyCounts =>
      all.find((one) => one.disk === disk)!.write;
    assert.equal(sum(of('data', after)) - sum(of('data', before)), 50);
    assert.ok(of('data', after).seconds > of('data', before).seconds);
    assert.equal(sum(of('other', after)), sum(of('other', before)));
  });

  await t.test('Prometheus is told of it, and of how its memory is made up', async () => {
    const told = await eventually(
      async () => {
        const buckets = await metrics(host, 'lodge_vm_disk_latency_seconds_count{vm="measured"');
        const pss = await metrics(host, 'lodge_vm_memory_proportional_bytes{vm="measured"');
        return buckets.some((line) => line.includes('operation="write"')) && pss.length > 0 ? { buckets, pss } : null;
      },
      { timeoutMs: 90_000, describe: 'the sampler has asked' },
    );
    const writes = Number(
      told.buckets
        .find((line) => line.includes('operation="write"'))!
        .split(' ')
        .at(-1),
    );
    assert.ok(writes >= 50, String(writes));
    assert.ok(Number(told.pss[0]!.split(' ').at(-1)) > 10 * 2 ** 20, told.pss[0]);
    const [steal] = await metrics(host, 'lodge_vm_cpu_steal_seconds_total{vm="measured"');
    assert.ok(Number(steal!.split(' ').at(-1)) >= 0);
    const [balloon] = await metrics(host, 'lodge_vm_memory_balloon_bytes{vm="measured"');
    assert.equal(balloon!.split(' ').at(-1), '0');
    assert.equal((await metrics(host, 'lodge_node_cpu_seconds_total{')).length, 3);
  });

  await t.test('what the guest tells of its memory is told on', async () => {
    const used = await eventually(
      async () => (await metrics(host, 'lodge_vm_guest_memory_used_bytes{vm="measured"'))[0],
      { timeoutMs: 90_000, describe: 'the balloon’s driver has told' },
    );
    const bytes = Number(used.split(' ').at(-1));
    assert.ok(bytes > 2 ** 20 && bytes < 128 * 2 ** 20, used);
  });

  await t.test('why it leaves to its hypervisor is watched', async () => {
    const seen = await host.client.vm.exits({ params, query: { watchS: 1, trace: true } });
    assert.equal(seen.accelerator, (await host.node()).status.accelerator?.chosen);
    assert.ok(
      seen.counters.some(({ total }) => total > 0),
      JSON.stringify(seen),
    );
    assert.ok(seen.watchedS >= 1);
    const again = [1, 2].map(() => host.client.vm.exits({ params, query: { watchS: 2 } }));
    const [one, other] = await Promise.allSettled(again);
    assert.deepEqual([one!.status, other!.status].toSorted(), ['fulfilled', 'rejected'], 'one at a time');
  });

  await t.test('a VM that is off has nothing to measure', async () => {
    await host.done(host.client.vm.forceOff({ params }));
    await assert.rejects(host.client.vm.diskLatency({ params }), { code: 'wrong_state' });
  });
});
