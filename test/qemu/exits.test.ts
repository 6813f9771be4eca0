// Why a guest leaves to its hypervisor: seen of a guest that writes a known number of times to an I/O port, in each accelerator
// of this machine that runs it.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type VmExits } from '../../src/api/vm-exits.ts';
import { watchExits } from '../../src/drivers/qemu/exits/exits.ts';
import { probeLadder, type ProbedRung } from '../../src/drivers/qemu/probe/probe.ts';
import { QmpConnection } from '../../src/drivers/qemu/qmp/connection.ts';
import { run } from '../../src/host/command.ts';
import { startBareQemu } from '../support/bare-qemu.ts';
import { atEnd } from '../support/cleanup.ts';
import { buildPortRom } from '../support/port-rom.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const writes = 400;

/** The kernel's tracing in a folder of the test's own; null: it can not be mounted. */
async function tracing(t: TestContext): Promise<string | null> {
  const folder = await temporaryFolder(t);
  try {
    await run(['mount', '-t', 'tracefs', 'tracefs', folder]);
  } catch {
    return null;
  }
  atEnd(t, async () => void (await run(['umount', folder])));
  return folder;
}

/** Watches a guest that begins to run when it is watched. */
async function watched(t: TestContext, rung: ProbedRung, root: string | null): Promise<Omit<VmExits, 'at'>> {
  const id = `test-${process.pid}-${rung.rung}`;
  const qemu = await startBareQemu(t, async (folder) => {
    const rom = join(folder, 'rom');
    await writeFile(rom, buildPortRom(writes));
    return ['-S', '-machine', 'q35', '-accel', rung.accelerator, '-cpu', rung.cpuModel!, '-m', '16', '-bios', rom];
  });
  const qmp = QmpConnection.open(qemu.qmpPath);
  t.after(() => qmp.close());
  await qmp.whenUp(60_000);
  const guest = {
    id,
    pid: qemu.child.pid!,
    qmp,
    isEmulated: rung.accelerator === 'tcg',
    tracingRoots: root ? [root] : [],
  };
  const watching = watchExits(guest, { watchMs: 3000, isTracing: true });
  // Under emulation nothing is traced.
  const enabled = join(root ?? '/', `instances/lodge-${id}/events/kvm/kvm_pio/enable`);
  const isTraced = root !== null && rung.accelerator === 'kvm';
  const begin = async (): Promise<void> => {
    if (isTraced)
      await eventually(async () => existsSync(enabled) && (await readFile(enabled, 'utf8')).startsWith('1'), {
        describe: 'ports are traced',
        intervalMs: 5,
      });
    await qmp.execute('cont');
  };
  const [seen] = await Promise.all([watching, begin()]);
  if (root !== null) assert.equal(existsSync(join(root, `instances/lodge-${id}`)), false, 'the trace instance is gone');
  return seen;
}

test('a guest under KVM shows each port it has written to, and its counters', async (t) => {
  const rung = (await probeLadder()).find(({ accelerator, isUsable }) => accelerator === 'kvm' && isUsable);
  if (!rung) return t.diagnostic('this machine has no KVM that runs a guest; nothing can be claimed of it');
  const root = await tracing(t);
  const seen = await watched(t, rung, root);
  assert.equal(seen.accelerator, 'kvm');
  const total = (name: string): number => seen.counters.find((counter) => counter.name === name)?.total ?? -1;
  assert.ok(total('exits') >= 0 && total('insn_emulation') >= 0, JSON.stringify(seen.counters));
  // A KVM that interprets its guests does not count what the processor would have left for.
  if (rung.rung === 'kvm') assert.ok(total('io_exits') >= writes, `${total('io_exits')} exits`);
  else assert.ok(total('insn_emulation') >= writes, `${total('insn_emulation')} instructions`);
  for (const { name, meaning } of seen.counters) if (meaning === '') t.diagnostic(`no meaning: ${name}`);
  if (root === null) {
    assert.match(seen.missing.find(({ what }) => what === 'reasons')!.reason, /tracefs/);
    return;
  }
  assert.ok(seen.trace);
  t.diagnostic(seen.trace.reasons.map(({ event, reason, count }) => `${event} ${reason} ${count}`).join(', '));
  const port = seen.trace.reasons.find(({ event, reason }) => event === 'kvm_pio' && reason === 'write 0x80');
  assert.ok(port && port.count >= writes, JSON.stringify(seen.trace));
  const left = seen.trace.reasons.find(({ reason }) => reason === 'KVM_EXIT_IO');
  assert.ok(left && left.count >= writes && left.meaning.includes('I/O port'));
});

test('an emulated guest shows what its emulation has counted, and why there are no reasons', async (t) => {
  const rung = (await probeLadder()).find(({ accelerator }) => accelerator === 'tcg')!;
  const seen = await watched(t, rung, null);
  assert.equal(seen.accelerator, 'tcg');
  assert.equal(seen.trace, null);
  const blocks = seen.counters.find(({ name }) => name === 'TB count');
  assert.ok(blocks && blocks.total > 0 && blocks.meaning.startsWith('Translated blocks'), JSON.stringify(seen));
  assert.deepEqual(
    seen.missing.map(({ what }) => what),
    ['reasons'],
  );
  assert.ok(seen.dirtyMibPerS !== null && seen.dirtyMibPerS >= 0);
  assert.ok(seen.steal && seen.steal.seconds >= 0);
});
