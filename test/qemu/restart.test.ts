// What happens to VMs without anybody asking: restart policies with their back-off, panics, and a host that was restarted.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { identifyProcess } from '../../src/host/process.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

function isRunningAnew(before: Vm): (vm: Vm) => boolean {
  return ({ status }) => status.state === 'running' && status.pid !== null && status.pid !== before.status.pid;
}

test(
  'a guest whose QEMU dies is started again, later each time, until it is given up',
  { timeout: 240_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const restartPolicy = { mode: 'on-failure', maxRetries: 2, backOffS: 1 } as const;
    let vm = await host.create('web1', { restartPolicy });
    for (const [count, waitS] of [
      [1, 1],
      [2, 2],
    ] as const) {
      process.kill(vm.status.pid!, 'SIGKILL');
      const down = await host.until('web1', 'waits', ({ status }) => status.restarts.nextAt !== null, 30_000);
      assert.equal(down.status.state, 'stopped');
      assert.equal(down.status.lastExit?.cause, 'hypervisor-died');
      assert.match(down.status.lastExit.message, /SIGKILL/);
      assert.equal(down.status.restarts.count, count);
      const waitMs = Date.parse(down.status.restarts.nextAt!) - Date.parse(down.status.lastExit.at);
      assert.ok(waitMs >= waitS * 1000 && waitMs < waitS * 1000 + 900, `it waits ${waitMs} ms`);
      const before = vm;
      vm = await host.until('web1', 'runs anew', isRunningAnew(before), 30_000);
      const startedMs = Date.parse(vm.status.startedAt!) - Date.parse(down.status.restarts.nextAt!);
      assert.ok(startedMs >= 0, 'not before it was announced');
    }
    process.kill(vm.status.pid!, 'SIGKILL');
    await eventually(async () => (await host.events(vm)).some(({ type }) => type === 'vm.restart-given-up'), {
      timeoutMs: 30_000,
      describe: 'it is given up',
    });
    const given = await host.vm('web1');
    assert.deepEqual([given.status.state, given.status.restarts.nextAt], ['stopped', null]);

    // Who starts it by hand begins anew; who stops it by hand is not contradicted.
    await host.done(host.client.vm.start({ params: { vm: 'web1' }, query }));
    assert.equal((await host.vm('web1')).status.restarts.count, 0);
    await host.done(host.client.vm.forceOff({ params: { vm: 'web1' }, query }));
    const off = await host.vm('web1');
    assert.deepEqual([off.status.state, off.status.restarts.nextAt], ['stopped', null]);
  },
);

test(
  'a guest that panics is kept for a look at it, or started again, as its policy says',
  { timeout: 240_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const panic = async (): Promise<void> => {
      // The answer does not come any more.
      const body = { command: ['sh', '-c', 'echo c > /proc/sysrq-trigger'], timeoutS: 5 };
      void (async () => {
        for await (const _ of await host.client.vm.exec({ params: { vm: 'web1' }, query, body }));
      })().catch(() => {});
    };
    await host.create('web1');
    await host.untilUp('web1');
    await panic();
    const crashed = await host.until('web1', 'has crashed', ({ status }) => status.state === 'crashed', 60_000);
    assert.ok(crashed.status.pid !== null, 'its process and memory are still there');
    assert.ok((await host.events(crashed)).some(({ type }) => type === 'vm.guest-panicked'));
    await host.client.vm.reset({ params: { vm: 'web1' }, query });
    const running = await host.until('web1', 'runs', ({ status }) => status.state === 'running', 30_000);
    assert.equal(running.status.pid, crashed.status.pid);

    // "always" counts a guest that powers itself off among what is to be started again.
    const spec = { ...running.spec, restartPolicy: { mode: 'always', maxRetries: 10, backOffS: 1 } as const };
    await host.client.vm.update({ params: { vm: 'web1' }, query, body: { spec } });
    await host.untilUp('web1');
    await panic();
    const anew = await host.until('web1', 'runs anew', isRunningAnew(running), 60_000);
    assert.equal(anew.status.lastExit?.cause, 'guest-panicked');
    await host.untilUp('web1');
    await host.exec('web1', ['sh', '-c', '(sleep 1; poweroff) >/dev/null 2>&1 &']);
    const again = await host.until('web1', 'runs anew', isRunningAnew(anew), 60_000);
    assert.equal(again.status.lastExit?.cause, 'guest-shutdown');
  },
);

/** Makes the daemon believe that the machine was restarted: it knows it by the boot id it has written down. */
async function pretendReboot(host: QemuDaemon): Promise<void> {
  const store = await SqliteStore.open({ file: join(host.daemon.folder, 'data/lodge.db') });
  try {
    const { items } = await store.list({ prefix: '/lodge/nodes-status/' });
    for (const { key, value } of items) {
      const changed = value.replace(/"bootId":"[^"]+"/, '"bootId":"00000000-0000-0000-0000-000000000000"');
      assert.notEqual(changed, value);
      await store.transact({ success: [{ put: key, value: changed }] });
    }
  } finally {
    await store.close();
  }
}

test(
  'after the host was restarted, what is to run runs, and the rest says why it does not',
  { timeout: 180_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const vms = [
      await host.create('ran'),
      await host.create('always', { restartPolicy: { mode: 'always', backOffS: 1 } }),
      await host.create('auto', { autostart: true }, false),
      await host.create('off', {}, false),
    ];
    await host.daemon.kill();
    for (const { status } of vms) if (status.pid !== null) process.kill(status.pid, 'SIGKILL');
    for (const { status } of vms)
      if (status.pid !== null) await eventually(() => identifyProcess(status.pid!) === null);
    await pretendReboot(host);
    await host.daemon.start();

    await host.until('auto', 'was started', ({ status }) => status.state === 'running');
    const always = await host.until('always', 'was started', ({ status }) => status.state === 'running');
    assert.equal(always.status.lastExit?.cause, 'host-restarted');
    const ran = await host.vm('ran');
    assert.deepEqual([ran.status.state, ran.status.lastExit?.cause], ['stopped', 'host-restarted']);
    assert.equal((await host.vm('off')).status.state, 'stopped');

    // The daemon alone was restarted: nothing is started anew.
    const auto = await host.vm('auto');
    await host.done(host.client.vm.forceOff({ params: { vm: 'auto' }, query }));
    await host.daemon.restart('kill');
    await host.node();
    assert.equal((await host.vm('auto')).status.state, 'stopped');
    assert.equal((await host.vm('always')).status.pid, always.status.pid);
    assert.ok((await host.events(auto)).filter(({ type }) => type === 'vm.autostart').length === 1);
  },
);
