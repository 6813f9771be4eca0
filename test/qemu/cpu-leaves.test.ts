// What a guest's processor says of its hypervisor, read by a guest with CPUID, beside what Lodge tells of it. Under KVM too,
// where this machine has one that runs a ROM; what is told of a KVM without Hyper-V is held to what its guests see.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type CpuInterface } from '../../src/api/vm-hardware.ts';
import { interfaceOptions, readInterface } from '../../src/drivers/qemu/cpu-interface.ts';
import { chooseAccelerator, probeLadder } from '../../src/drivers/qemu/probe/probe.ts';
import { QmpConnection } from '../../src/drivers/qemu/qmp/connection.ts';
import { startBareQemu } from '../support/bare-qemu.ts';
import { buildCpuidRom, exitPort, parseCpuidReport, reportPort, signatureOf, type Leaf } from '../support/cpuid-rom.ts';

const base = 0x40000000;
const leaves = [1, base, base + 1, base + 2, base + 3, base + 4, base + 5];
const guestMs = 60_000;

interface Seen {
  hasHypervisorBit: boolean;
  signature: string;
  leaf: (number: number) => Leaf;
  /** Features that Lodge tells of it. */
  told: readonly string[];
}

interface Accelerator {
  accelerator: 'kvm' | 'tcg';
  cpuModel: string;
  hasHyperV: boolean;
}

async function see(context: TestContext, chosen: Accelerator, kind: CpuInterface): Promise<Seen> {
  const { accelerator, cpuModel, hasHyperV } = chosen;
  let report = '';
  const qemu = await startBareQemu(context, async (folder) => {
    const rom = join(folder, 'rom');
    report = join(folder, 'report');
    await writeFile(rom, buildCpuidRom(leaves));
    return [
      ...['-S', '-no-reboot', '-machine', 'q35', '-accel', accelerator, '-m', '16', '-bios', rom],
      ...['-cpu', `${cpuModel}${interfaceOptions(kind, accelerator, hasHyperV)}`],
      ...['-chardev', `file,id=report,path=${report}`],
      ...['-device', `isa-debugcon,iobase=${reportPort},chardev=report`],
      ...['-device', `isa-debug-exit,iobase=${exitPort},iosize=1`],
    ];
  });
  const qmp = QmpConnection.open(qemu.qmpPath);
  context.after(() => qmp.close());
  await qmp.whenUp(guestMs);
  const told = await readInterface(qmp, kind, accelerator);
  const ended = once(qemu.child, 'exit', { signal: AbortSignal.timeout(guestMs) });
  // The guest may be through before QEMU has answered.
  await Promise.all([ended, qmp.execute('cont').catch(() => {})]);
  const found = parseCpuidReport(await readFile(report), leaves);
  const leaf = (number: number): Leaf => found.get(number)!;
  return { hasHypervisorBit: leaf(1).ecx >>> 31 === 1, signature: signatureOf(leaf(base)), leaf, told };
}

/** Bits of leaf 0x40000001 by QEMU's names of them: https://docs.kernel.org/virt/kvm/x86/cpuid.html */
const kvmBits: Readonly<Record<string, number>> = {
  kvmclock: 3,
  'kvm-asyncpf': 4,
  'kvm-steal-time': 5,
  'kvm-pv-eoi': 6,
  'kvm-pv-unhalt': 7,
  'kvm-pv-tlb-flush': 9,
  'kvm-pv-ipi': 11,
  'kvm-pv-sched-yield': 13,
};

/** Leaf, register and bit by QEMU's names: Hypervisor Top Level Functional Specification, "Feature and Interface Discovery". */
const hyperVBits: Readonly<Record<string, readonly [leaf: number, register: keyof Leaf, bit: number]>> = {
  'hv-runtime': [base + 3, 'eax', 0],
  'hv-time': [base + 3, 'eax', 1],
  'hv-synic': [base + 3, 'eax', 2],
  'hv-stimer': [base + 3, 'eax', 3],
  'hv-vapic': [base + 3, 'eax', 4],
  'hv-vpindex': [base + 3, 'eax', 6],
  'hv-reset': [base + 3, 'eax', 7],
  'hv-frequencies': [base + 3, 'eax', 11],
  'hv-tlbflush': [base + 4, 'eax', 2],
  'hv-relaxed': [base + 4, 'eax', 5],
  'hv-ipi': [base + 4, 'eax', 10],
};

function assertMachine(seen: Seen): void {
  assert.equal(seen.hasHypervisorBit, false);
  assert.doesNotMatch(seen.signature, /KVM|Microsoft|TCG/);
  assert.deepEqual(seen.told, []);
}

test('under emulation a guest sees a machine, or that it is emulated, and nothing more is told', async (context) => {
  const tcg: Accelerator = { accelerator: 'tcg', cpuModel: 'max', hasHyperV: false };
  assertMachine(await see(context, tcg, 'none'));
  for (const kind of ['kvm', 'hyper-v'] as const) {
    const seen = await see(context, tcg, kind);
    assert.deepEqual([seen.hasHypervisorBit, seen.signature, seen.told], [true, 'TCGTCGTCGTCG', []]);
  }
});

test('under KVM a guest sees what it was given, and what is told of it is what it sees', async (context) => {
  const ladder = await probeLadder();
  const rung = ladder.find(({ accelerator, isUsable }) => accelerator === 'kvm' && isUsable);
  if (!rung) {
    // Without a KVM nothing can be claimed of it.
    assert.throws(() => chooseAccelerator(ladder, 'kvm'), /does not work on this node/);
    assert.ok(ladder.every(({ hasHyperV }) => !hasHyperV));
    return;
  }
  const { cpuModel, hasHyperV } = chooseAccelerator(ladder, 'kvm', 'rom');
  const kvm: Accelerator = { accelerator: 'kvm', cpuModel, hasHyperV };
  context.diagnostic(`${rung.rung} with ${cpuModel}, ${hasHyperV ? 'knows' : 'does not know'} Hyper-V`);

  assertMachine(await see(context, kvm, 'none'));

  const linux = await see(context, kvm, 'kvm');
  assert.deepEqual([linux.hasHypervisorBit, linux.signature], [true, 'KVMKVMKVM']);
  const bits = linux.leaf(base + 1).eax;
  const seen = Object.keys(kvmBits).filter((name) => ((bits >>> kvmBits[name]!) & 1) === 1);
  assert.deepEqual([...linux.told].toSorted(), seen.toSorted());
  context.diagnostic(`kvm: ${seen.join(' ')}`);

  const windows = await see(context, kvm, 'hyper-v');
  assert.equal(windows.hasHypervisorBit, true);
  if (!hasHyperV) {
    assert.deepEqual([windows.signature, windows.told], ['KVMKVMKVM', []]);
    return;
  }
  assert.equal(windows.signature, 'Microsoft Hv');
  assert.equal(windows.leaf(base + 1).eax, 0x31237648, 'Hv#1');
  const given = Object.keys(hyperVBits).filter((name) => {
    const [leaf, register, bit] = hyperVBits[name]!;
    return ((windows.leaf(leaf)[register] >>> bit) & 1) === 1;
  });
  assert.deepEqual([...windows.told].toSorted(), given.toSorted());
  assert.equal(windows.leaf(base + 4).ebx, 0x1fff, 'attempts to take a spinlock');
});
