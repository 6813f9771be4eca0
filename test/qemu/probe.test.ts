// The probe guest in the installed QEMU: emulation always, KVM where this machine has it, and what goes wrong.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { attemptProbe, type Attempt } from '../../src/drivers/qemu/probe/attempt.ts';
import { chooseAccelerator, probeLadder, type ProbedRung } from '../../src/drivers/qemu/probe/probe.ts';
import { PROBE_MEASUREMENTS } from '../../src/drivers/qemu/probe/rom-format.ts';
import { buildProbeRom } from '../../src/drivers/qemu/probe/rom.ts';
import { readKvm, type KvmFacts } from '../../src/host/machine.ts';
import { findProcesses } from '../../src/host/process.ts';

const NO_KVM: KvmFacts = {
  device: '/dev/kvm',
  isPresent: false,
  canOpen: false,
  problem: '/dev/kvm does not exist',
  modules: [],
  isNestingEnabled: null,
};

/** A temporary folder for the prober, which must be empty again at the end, with no QEMU left that used it. */
async function watchFolder(t: TestContext): Promise<void> {
  const before = process.env['TMPDIR'];
  const folder = await mkdtemp(join(tmpdir(), 'lodge-test-probe-'));
  process.env['TMPDIR'] = folder;
  t.after(async () => {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
    const left = await readdir(folder);
    await rm(folder, { recursive: true });
    const running = await findProcesses({ matchesArguments: (argv) => argv.some((each) => each.startsWith(folder)) });
    assert.deepEqual(left, []);
    assert.deepEqual(running, []);
  });
}

function rung(ladder: readonly ProbedRung[], name: ProbedRung['rung']): ProbedRung {
  const found = ladder.find((each) => each.rung === name);
  assert.ok(found);
  return found;
}

/** The ROM with other bytes at an offset. */
function damagedRom(offset: number, ...bytes: readonly number[]): Uint8Array {
  const rom = buildProbeRom().bytes.slice();
  rom.set(bytes, offset);
  return rom;
}

/** Where the code after a label of the listing lies in the ROM. */
function offsetOf(label: string): number {
  const found = new RegExp(`^${label}:\\n([0-9a-f]{8})`, 'm').exec(buildProbeRom().listing);
  assert.ok(found, label);
  const address = Number.parseInt(found[1] ?? '', 16);
  return address >= 0xffff0000 ? address - 0xffff0000 : address - 0x10000;
}

async function probeTcg(rom: Uint8Array, deadlineMs?: number): Promise<ProbedRung> {
  return rung(await probeLadder({ rom, deadlineMs, kvm: NO_KVM, virtualization: 'none' }), 'tcg');
}

test('under emulation the probe guest does everything on q35, pc and microvm, and everything has a cost', async (t) => {
  await watchFolder(t);
  for (const machine of ['q35', 'pc', 'microvm']) {
    const tcg = rung(await probeLadder({ machine, kvm: NO_KVM, virtualization: 'none' }), 'tcg');
    assert.deepEqual([tcg.isUsable, tcg.isForOrdinaryGuests, tcg.accelerator], [true, true, 'tcg'], tcg.reason);
    assert.equal(tcg.cpuModel, 'max');
    assert.ok(tcg.startMs !== null && tcg.startMs > 0 && tcg.startMs < 10_000);
    assert.deepEqual(Object.keys(tcg.costs).toSorted(), [...PROBE_MEASUREMENTS].toSorted());
    for (const [name, cost] of Object.entries(tcg.costs)) assert.ok(cost > 0 && cost < 1e9, `${name}: ${cost}`);
    assert.ok(tcg.tscKhz !== null && tcg.tscKhz > 100_000 && tcg.tscKhz < 10_000_000, String(tcg.tscKhz));
    assert.deepEqual(tcg.attempts, [{ cpuModel: 'max', problem: null }]);
  }
});

test('on this machine every rung is judged, and the choice follows from it', async (t) => {
  await watchFolder(t);
  const kvm = await readKvm();
  const ladder = await probeLadder();
  assert.deepEqual(
    ladder.map((each) => each.rung),
    ['kvm', 'kvm-pvm', 'tcg'],
  );
  assert.equal(rung(ladder, 'tcg').isUsable, true);
  const tried = ladder.filter((each) => each.accelerator === 'kvm' && each.attempts.length > 0);
  // With a KVM that opens, exactly one of its rungs is tried; without one, none.
  assert.equal(tried.length, kvm.canOpen ? 1 : 0, JSON.stringify(ladder));
  for (const each of ladder) {
    assert.notEqual(each.reason, '');
    if (each.isForOrdinaryGuests) assert.equal(each.isUsable, true);
    assert.equal(each.cpuModel !== null, each.isUsable);
  }
  t.diagnostic(ladder.map((each) => `${each.rung}: ${each.reason}`).join('\n'));

  const choice = chooseAccelerator(ladder, 'auto');
  const best = ladder.find((each) => each.isForOrdinaryGuests);
  assert.equal(choice.rung, best?.rung);
  assert.equal(chooseAccelerator(ladder, 'tcg').rung, 'tcg');
  for (const each of tried.filter(({ isUsable }) => isUsable)) {
    assert.equal(chooseAccelerator(ladder, 'kvm', 'rom').rung, each.rung);
    assert.ok((each.costs['kernelWorkHigh'] ?? 0) > 0);
    assert.ok((each.costs['cpuid'] ?? 0) > 0);
  }
  if (tried.length === 0) assert.throws(() => chooseAccelerator(ladder, 'kvm'), /does not work on this node/);
});

test('a ROM damaged on its way to long mode makes the rung unusable with that reason', async (t) => {
  await watchFolder(t);
  // An invalid opcode in protected mode, without a handler: three faults in a row reset the processor.
  const tcg = await probeTcg(damagedRom(offsetOf('start32'), 0x0f, 0x0b));
  assert.deepEqual([tcg.isUsable, tcg.isForOrdinaryGuests, tcg.cpuModel, tcg.startMs], [false, false, null, null]);
  assert.match(
    tcg.reason,
    /No probe guest ran in emulation by QEMU \(TCG\): the guest never reached long mode, and the processor was reset \(-cpu max; qemu64\)/,
  );
  assert.equal(tcg.attempts.length, 2);
});

test('a ROM damaged in its 64-bit part is caught where it goes wrong', async (t) => {
  await watchFolder(t);
  // The page fault handler gives up at once (UD2): the guest gets an exception in the first checks.
  const broken = await probeTcg(damagedRom(offsetOf('on_page_fault'), 0x0f, 0x0b));
  assert.equal(broken.isUsable, false);
  assert.ok(broken.startMs !== null, broken.reason);
  // The breakpoint handler returns without counting (IRETQ): all but the last kernel check passes.
  const partial = await probeTcg(damagedRom(offsetOf('on_breakpoint'), 0x48, 0xcf));
  assert.deepEqual([partial.isUsable, partial.isForOrdinaryGuests], [true, false]);
  assert.match(partial.reason, /a breakpoint did not reach its handler.*small ROM guests only/);
});

test('a guest that hangs is ended at the deadline', async (t) => {
  await watchFolder(t);
  const startedAt = performance.now();
  // jmp to itself
  const tcg = await probeTcg(damagedRom(0xfff0, 0xeb, 0xfe), 300);
  const tookMs = performance.now() - startedAt;
  assert.equal(tcg.isUsable, false);
  assert.match(tcg.reason, /the guest never reached long mode, and was ended after 300 ms/);
  assert.ok(tookMs >= 600 && tookMs < 10_000, `${tookMs} ms for two models`);
});

test('a QEMU that is missing, or something else, makes every rung unusable with the reason', async (t) => {
  await watchFolder(t);
  const missing = await probeLadder({
    binary: '/does/not/exist/qemu-system-x86_64',
    kvm: NO_KVM,
    virtualization: 'none',
  });
  assert.equal(
    missing.some((each) => each.isUsable),
    false,
  );
  assert.match(rung(missing, 'tcg').reason, /\/does\/not\/exist\/qemu-system-x86_64 is not installed/);
  assert.throws(() => chooseAccelerator(missing, 'auto'), /No accelerator works on this node/);
  const other = await probeLadder({ binary: 'false', kvm: NO_KVM, virtualization: 'none' });
  assert.equal(rung(other, 'tcg').isUsable, false);
});

test('QEMU’s own complaint is the reason when it does not start', async (t) => {
  await watchFolder(t);
  const ladder = await probeLadder({ machine: 'no-such-machine', kvm: NO_KVM, virtualization: 'none' });
  assert.match(rung(ladder, 'tcg').reason, /QEMU said: .*no-such-machine/);
});

test('a KVM device that is none is refused by QEMU, and its complaint is the reason', async (t) => {
  await watchFolder(t);
  const kvm: KvmFacts = { ...NO_KVM, device: '/dev/null', isPresent: true, canOpen: true, problem: '' };
  const ladder = await probeLadder({ kvm, virtualization: 'none' });
  const pvm = rung(ladder, 'kvm-pvm');
  assert.equal(pvm.isUsable, false);
  assert.match(pvm.reason, /QEMU said: .*(kvm|KVM|ioctl)/);
  assert.equal(chooseAccelerator(ladder, 'auto').rung, 'tcg');
});

test('probing can be aborted, and leaves nothing', async (t) => {
  await watchFolder(t);
  const abort = new AbortController();
  const rom = damagedRom(0xfff0, 0xeb, 0xfe);
  const probing = probeLadder({ rom, kvm: NO_KVM, virtualization: 'none', signal: abort.signal });
  setTimeout(() => abort.abort(new Error('enough')), 50);
  await assert.rejects(probing, /enough/);
  await assert.rejects(probeLadder({ signal: abort.signal }), /enough/);
});

test('one attempt tells start time and problem', async (t) => {
  await watchFolder(t);
  const attempt: Attempt = await attemptProbe({
    binary: 'qemu-system-x86_64',
    accelerator: 'tcg',
    cpuModel: 'no-such-model',
    machine: 'q35',
    romPath: '/dev/null',
    kvmDevice: '/dev/kvm',
    deadlineMs: 5000,
  });
  assert.equal(attempt.startMs, null);
  assert.match(attempt.problem ?? '', /QEMU said: .*no-such-model/);
});
