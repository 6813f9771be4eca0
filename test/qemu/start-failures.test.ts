// A guest's start that fails, in each of its steps: one clear error, and nothing half-made.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { brokenQemu, oldQemu, type Breakage } from '../support/broken-qemu.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { defineTiny, driverHost, groupsOf, tracesOf } from '../support/qemu-guest.ts';
import { temporaryFolder } from '../support/temporary.ts';

const query = { project: 'default' } as const;

/** Processes, groups, sockets and taps that there are of a VM. */
async function remains(host: QemuDaemon, vm: Vm): Promise<string[]> {
  const directory = join(host.daemon.folder, 'data/vms', vm.id);
  const found = await tracesOf(host.daemon.instance, { id: vm.id, directory });
  const { stdout } = await host.namespace.run(['ip', '-json', 'link', 'show']);
  const links = (JSON.parse(stdout) as { ifname: string }[]).map(({ ifname }) => ifname);
  found.push(...links.filter((name) => name.startsWith('lt')).map((name) => `tap ${name}`));
  for (const file of await readdir(join(directory, 'qemu')).catch(() => []))
    if (file !== 'serial.log') found.push(`file ${file}`);
  return found;
}

const failures: [Breakage, RegExp][] = [
  ['exits', /ended unexpectedly with code 3.*it was told to end/],
  ['killed', /ended by SIGKILL, without a word/],
  ['no-greeting', /ended unexpectedly with code 4/],
  ['after-greeting', /ended unexpectedly with code 5/],
  ['negotiated', /ended unexpectedly with code 6/],
  ['on-cont', /ended unexpectedly with code 7/],
  ['refuses-cont', /QEMU refused to start VM web1: it was told to refuse/],
];

test('a QEMU that dies in any step of the start leaves nothing half-made', { timeout: 240_000 }, async (context) => {
  const folder = await temporaryFolder(context);
  const broken = await brokenQemu(folder);
  const host = await qemuDaemon(context, { config: { qemu: { binary: broken.path } } });
  const vm = await host.create('web1', { nics: [{ network: 'default' }] }, false);
  const start = (): ReturnType<typeof host.client.vm.start> => host.client.vm.start({ params: { vm: 'web1' }, query });

  for (const [breakage, words] of failures) {
    await broken.breakAt(breakage);
    const error = await host.failed(start());
    assert.equal(error.code, 'hypervisor_failed', breakage);
    assert.match(error.message, /VM web1/, breakage);
    assert.match(error.message, words, breakage);
    assert.doesNotMatch(error.message, /\n|QmpClosedError|undefined/, breakage);
    assert.notEqual(error.hint, '');
    const { status } = await host.until('web1', 'is left alone', (now) => now.status.taskId === null, 10_000);
    assert.equal(status.state, 'stopped', breakage);
    assert.equal(status.pid, null);
    assert.equal(status.lastExit?.cause, 'start-failed');
    assert.deepEqual(await remains(host, vm), [], `what is left after ${breakage}`);
  }
  // The words of QEMU can be read afterwards.
  await broken.breakAt('exits');
  await host.failed(start());
  const log = await host.client.vm.log({ params: { vm: 'web1' }, query });
  assert.match(await log.text(), /it was told to end/);

  await broken.breakAt(null);
  await host.done(start());
  assert.equal((await host.vm('web1')).status.state, 'running');
  await host.done(host.client.vm.delete({ params: { vm: 'web1' }, query: { ...query, force: true } }));
  assert.deepEqual(await groupsOf(vm.id), []);
  assert.deepEqual(await readdir(join(host.daemon.folder, 'data/vms')), []);

  // A VM that is created and started in one go is not there when that fails.
  await broken.breakAt('on-cont');
  const body = { name: 'web2', spec: { image: 'tiny', nics: [] } };
  await host.failed(host.client.vm.create({ query: { start: true }, body }));
  await assert.rejects(host.vm('web2'), { code: 'not_found' });
  assert.deepEqual(await readdir(join(host.daemon.folder, 'data/vms')), []);
});

test(
  'a QEMU that never answers is given up at the deadline, or when the caller gives up',
  { timeout: 60_000 },
  async (context) => {
    const host = await driverHost(context);
    const broken = await brokenQemu(host.folder);
    const driver = host.openDriver({ binary: broken.path });
    context.after(() => driver.close());
    await driver.inspect();
    await broken.breakAt('hangs');
    const definition = await defineTiny(host);
    await assert.rejects(driver.start(definition, { timeoutMs: 1000 }), {
      code: 'timeout',
      message: /did not answer within 1 s/,
    });
    assert.deepEqual(await tracesOf(host.instance, definition), []);
    await assert.rejects(driver.start(definition, { signal: AbortSignal.timeout(500) }), { code: 'cancelled' });
    assert.deepEqual(await tracesOf(host.instance, definition), []);
  },
);

test(
  'without QEMU, or with one too old, the daemon runs and says what to do',
  { timeout: 120_000 },
  async (context) => {
    const folder = await temporaryFolder(context);
    const cases: [string, RegExp][] = [
      [join(folder, 'qemu-that-is-not-there'), /is not installed/],
      [await oldQemu(folder, '7.0.0'), /7\.0\.0.*too old.*8\.2/],
    ];
    for (const [binary, words] of cases) {
      const host = await qemuDaemon(context, { config: { qemu: { binary } } });
      const { status } = await host.node();
      assert.equal(status.state, 'degraded');
      assert.match(status.problems.join(' '), words);
      assert.match(status.driver.reason, /[Ii]nstall/, 'it says what to install');
      const body = { name: 'web1', spec: { image: 'tiny', nics: [] } };
      await assert.rejects(host.client.vm.create({ body }), (error: Error & { code?: string; hint?: string }) => {
        assert.equal(error.code, 'unavailable');
        assert.match(error.message, words);
        assert.match(error.hint ?? '', /[Ii]nstall/);
        return true;
      });
      const { items } = await host.client.vm.list({ query: {} });
      assert.deepEqual(items, []);
      await host.daemon.stop();
    }
  },
);
