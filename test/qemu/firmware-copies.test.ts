// What firmware and TPM remember, with real guests: brought back by a snapshot, taken along by a clone, and told when the
// TPM's process dies. And the generation that a guest is told after it went back.
import assert from 'node:assert/strict';
import { mkdir, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { findProcesses, isAlive, type ProcessIdentity } from '../../src/host/process.ts';
import { loaderWords, makeEfiDisk, makeLoader } from '../support/efi-disk.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const bootMs = 240_000;

test(
  'snapshots and clones have the UEFI variables and the TPM of their VM, and a TPM that dies is told',
  { timeout: 900_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const { client, daemon } = host;
    const folderOf = async (name: string): Promise<string> =>
      join(daemon.folder, 'data', 'vms', (await host.vm(name)).id);
    const kept = async (name: string): Promise<{ variables: Buffer; state: Buffer; key: Buffer }> => {
      const folder = await folderOf(name);
      const [variables, state, key] = await Promise.all(
        ['uefi-variables.fd', 'tpm/tpm2-00.permall', 'tpm.key'].map((file) => readFile(join(folder, file))),
      );
      return { variables: variables!, state: state!, key: key! };
    };
    const off = (vm: string): Promise<unknown> => host.done(client.vm.forceOff({ params: { vm }, query }));
    const start = (vm: string): Promise<unknown> => host.done(client.vm.start({ params: { vm }, query }));
    const tpmOf = async (vm: Vm): Promise<ProcessIdentity> => {
      const found = await findProcesses({ environmentVariable: 'LODGE_VM_TPM' });
      const its = found.filter(({ mark }) => mark === `${daemon.instance}/${vm.id}`);
      assert.equal(its.length, 1, 'one process is its TPM');
      return its[0]!.identity;
    };
    const folder = join(daemon.folder, 'loaders');
    await mkdir(folder, { mode: 0o755 });
    const path = join(folder, 'waiting.img');
    await makeEfiDisk(path, await makeLoader(folder, { commands: 'sleep 9999' }));
    const source = { type: 'file', path, format: 'raw' } as const;
    await host.done(client.image.create({ body: { name: 'waiting', spec: { source } } }));
    const params = { vm: 'web1' };
    await host.create('web1', {
      image: 'waiting',
      memoryMib: 256,
      display: 'none',
      firmware: { type: 'uefi' },
      tpm: { isEnabled: true },
    });
    await eventually(async () => (await host.console('web1')).includes(loaderWords), {
      timeoutMs: bootMs,
      describe: 'the loader runs',
    });
    await host.done(client.snapshot.create({ params, body: { name: 'running' } }));
    await host.done(client.snapshot.create({ params, body: { name: 'memory', withMemory: true } }));
    await off('web1');
    const then = await kept('web1');
    await client.vm.resetFirmware({ params, query, body: { what: 'variables' } });
    await client.vm.resetFirmware({ params, query, body: { what: 'tpm' } });
    await start('web1');
    await off('web1');
    const since = await kept('web1');
    assert.notDeepEqual(since.key, then.key);
    assert.notDeepEqual(since.state, then.state);
    await host.done(client.snapshot.revert({ params: { ...params, snapshot: 'running' }, body: {} }));
    assert.deepEqual(await kept('web1'), then);
    const restored = await stat(join(await folderOf('web1'), 'tpm/tpm2-00.permall'));
    assert.equal(restored.uid, (await host.vm('web1')).status.uid);

    // A clone opens what was sealed in the original's TPM, unless it is to have its own.
    await host.done(client.vm.clone({ params, body: { name: 'copy' } }));
    await host.done(client.vm.clone({ params, body: { name: 'other', tpm: 'new', snapshot: 'running' } }));
    assert.deepEqual(await kept('copy'), then);
    await start('copy');
    await start('other');
    const other = await kept('other');
    assert.notDeepEqual(other.key, then.key);
    assert.notDeepEqual(other.state, then.state);
    await off('other');

    const vm = await host.vm('copy');
    const tpm = await tpmOf(vm);
    process.kill(tpm.pid, 'SIGKILL');
    const warned = await host.until('copy', 'is said to have lost its TPM', ({ status }) => status.warnings.length > 0);
    assert.deepEqual(
      warned.status.warnings.map(({ code, hint }) => [code, /lodge vm restart copy/.test(hint)]),
      [['tpm-died', true]],
    );
    assert.equal(warned.status.state, 'running');
    await daemon.kill();
    await daemon.start();
    await host.until('copy', 'is running', ({ status }) => status.state === 'running');
    assert.equal((await host.vm('copy')).status.warnings.length, 1);
    const events = await host.events(vm);
    assert.equal(events.filter(({ type }) => type === 'vm.tpm-died').length, 1);
    await off('copy');
    assert.deepEqual((await host.vm('copy')).status.warnings, []);
    await start('copy');
    assert.ok(isAlive(await tpmOf(vm)));
    assert.deepEqual((await host.vm('copy')).status.warnings, []);
    await off('copy');

    // With its memory, the TPM goes on too: QEMU hands it what it had, under the key of then.
    await client.vm.resetFirmware({ params, query, body: { what: 'tpm' } });
    await host.done(client.snapshot.revert({ params: { ...params, snapshot: 'memory' }, body: {} }));
    const back = await host.vm('web1');
    assert.equal(back.status.state, 'running');
    assert.ok(isAlive(await tpmOf(back)));
    assert.deepEqual((await kept('web1')).key, then.key);
  },
);

test('a guest that went back to its memory is told of another generation', { timeout: 600_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const { client } = host;
  const params = { vm: 'web1' };
  await host.create('web1', { memoryMib: 128 });
  const before = await host.untilUp('web1');
  const first = before.status.generationId ?? '';
  assert.ok(await isInMemory(before, first), 'the guest has been told of its generation');
  await host.done(client.snapshot.create({ params, body: { name: 'memory', withMemory: true } }));
  assert.equal((await host.vm('web1')).status.generationId, first, 'a snapshot alone changes nothing');
  await host.done(client.snapshot.revert({ params: { ...params, snapshot: 'memory' }, body: { force: true } }));
  const after = await host.vm('web1');
  assert.notEqual(after.status.generationId, first);
  assert.ok(await isInMemory(after, after.status.generationId ?? ''), 'the guest is told of the new one');
  assert.ok(!(await isInMemory(after, first)), 'and of no other');
});

/** Whether a UUID lies in the memory of a guest, in the form of the specification: its first three parts little-endian. */
async function isInMemory({ status, spec }: Vm, uuid: string): Promise<boolean> {
  const bytes = Buffer.from(uuid.replaceAll('-', ''), 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  const size = spec.memoryMib * 2 ** 20;
  const maps = (await readFile(`/proc/${status.pid}/maps`, 'utf8')).split('\n');
  const start = maps
    .map((line) => /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line))
    .flatMap((match) => (match ? [{ from: parseInt(match[1]!, 16), to: parseInt(match[2]!, 16) }] : []))
    .find(({ from, to }) => to - from === size)?.from;
  assert.ok(start !== undefined, 'the memory of the guest is one mapping');
  const memory = await open(`/proc/${status.pid}/mem`);
  try {
    const content = Buffer.alloc(size);
    await memory.read(content, 0, size, start);
    return content.includes(bytes);
  } finally {
    await memory.close();
  }
}
