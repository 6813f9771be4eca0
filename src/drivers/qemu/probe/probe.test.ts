// Judging rungs and choosing among them, on made-up and recorded measurements.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../../api/errors.ts';
import { type Attempt } from './attempt.ts';
import { chooseAccelerator, judge, speedAgainst, type ProbedRung } from './probe.ts';

function attempt(changes: {
  cpuModel?: string;
  kernelWork?: number;
  isRomFit?: boolean;
  isKernelFit?: boolean;
  problem?: string | null;
}): Attempt {
  const { cpuModel = 'host', kernelWork, isRomFit = true, isKernelFit = true, problem = null } = changes;
  return {
    cpuModel,
    startMs: isRomFit ? 50.04 : null,
    problem,
    report: {
      isInLongMode: isRomFit,
      isRomFit,
      isKernelFit,
      problem,
      cpuVendor: 'GenuineIntel',
      hypervisor: 'KVMKVMKVM',
      tscKhz: 2_600_000,
      costs: kernelWork === undefined ? {} : { kernelWorkHigh: kernelWork },
    },
  };
}

const tcg = judge('tcg', [attempt({ cpuModel: 'max', kernelWork: 11 })], null);
const fast = judge('kvm', [attempt({ kernelWork: 1.2 })], tcg);
const none = { ...judge('kvm', [], tcg), reason: 'The processor shows neither VT-x nor AMD-V.' };
// As measured with kvm_pvm and an ordinary guest.
const interpreted = judge(
  'kvm-pvm',
  [
    attempt({
      cpuModel: 'host,-arch-capabilities',
      kernelWork: 10_600,
      isKernelFit: false,
      problem: 'the guest stopped when it tried a breakpoint in kernel mode (INT3)',
    }),
  ],
  tcg,
);

test('hardware virtualization that runs everything faster is chosen', () => {
  assert.deepEqual([fast.isUsable, fast.isForOrdinaryGuests, fast.cpuModel, fast.startMs], [true, true, 'host', 50]);
  assert.match(fast.reason, /runs 9\.2 times as fast as under emulation \(1 ns against 11 ns a round\)/);
  const choice = chooseAccelerator([fast, interpreted, tcg], 'auto');
  assert.deepEqual([choice.accelerator, choice.rung, choice.cpuModel], ['kvm', 'kvm', 'host']);
});

test('a KVM that interprets kernel code is usable for ROM guests, and never chosen by itself', () => {
  assert.deepEqual([interpreted.isUsable, interpreted.isForOrdinaryGuests], [true, false]);
  assert.match(interpreted.reason, /runs 964 times as slowly as under emulation \(11 µs against 11 ns a round\)/);
  assert.match(interpreted.reason, /INT3.*good for small ROM guests only/);
  const auto = chooseAccelerator([none, interpreted, tcg], 'auto');
  assert.equal(auto.rung, 'tcg');
  assert.match(auto.reason, /Not kvm: The processor shows neither.*Not kvm-pvm: A probe guest ran/);
  assert.equal(chooseAccelerator([none, interpreted, tcg], 'auto', 'rom').rung, 'tcg');
  const asked = chooseAccelerator([none, interpreted, tcg], 'kvm', 'rom');
  assert.deepEqual([asked.accelerator, asked.rung, asked.cpuModel], ['kvm', 'kvm-pvm', 'host,-arch-capabilities']);
  assert.match(asked.reason, /^Asked for by accelerator "kvm"\./);
});

test('a KVM that does everything but is slower than emulation is not for ordinary guests', () => {
  const slow = judge('kvm-pvm', [attempt({ kernelWork: 12 })], tcg);
  assert.deepEqual([slow.isUsable, slow.isForOrdinaryGuests], [true, false]);
  assert.equal(chooseAccelerator([none, slow, tcg], 'auto').rung, 'tcg');
  const quick = judge('kvm-pvm', [attempt({ kernelWork: 10 })], tcg);
  assert.equal(chooseAccelerator([none, quick, tcg], 'auto').rung, 'kvm-pvm');
});

test('a ROM guest may use a KVM without kernel fitness when that is not slower', () => {
  const partial = judge('kvm-pvm', [attempt({ kernelWork: 2, isKernelFit: false, problem: 'the guest stopped' })], tcg);
  assert.equal(chooseAccelerator([none, partial, tcg], 'auto', 'rom').rung, 'kvm-pvm');
  assert.equal(chooseAccelerator([none, partial, tcg], 'auto', 'ordinary').rung, 'tcg');
});

test('without emulation to compare with, a KVM that does everything is chosen', () => {
  const noTcg = judge('tcg', [attempt({ isRomFit: false, problem: 'QEMU said: invalid accelerator tcg' })], null);
  const kvm = judge('kvm', [attempt({ kernelWork: 1.2 })], noTcg);
  assert.equal(kvm.isForOrdinaryGuests, true);
  assert.equal(speedAgainst(kvm, noTcg), null);
  assert.equal(chooseAccelerator([kvm, noTcg], 'auto').rung, 'kvm');
});

test('the first model that runs counts; when none does, each complaint is said once with its models', () => {
  const refused = (cpuModel: string, problem: string): Attempt => attempt({ cpuModel, isRomFit: false, problem });
  const second = judge(
    'kvm',
    [refused('host', 'QEMU said: MSR 0x10a'), attempt({ cpuModel: 'qemu64', kernelWork: 1 })],
    tcg,
  );
  assert.deepEqual([second.isUsable, second.cpuModel], [true, 'qemu64']);
  assert.deepEqual(second.attempts[0], { cpuModel: 'host', problem: 'QEMU said: MSR 0x10a' });
  const bad = judge('kvm', [refused('host', 'no KVM'), refused('max', 'no KVM'), refused('qemu64', 'other')], tcg);
  assert.deepEqual([bad.isUsable, bad.isForOrdinaryGuests, bad.cpuModel, bad.startMs], [false, false, null, null]);
  assert.equal(
    bad.reason,
    'No probe guest ran in KVM with hardware virtualization: no KVM (-cpu host; max); other (-cpu qemu64).',
  );
});

test('a choice that can not be made is refused with all reasons', () => {
  const refusal = (ladder: ProbedRung[], wanted: 'auto' | 'kvm' | 'tcg'): LodgeError => {
    try {
      chooseAccelerator(ladder, wanted);
    } catch (error) {
      assert.ok(error instanceof LodgeError);
      return error;
    }
    return assert.fail('it was not refused');
  };
  const error = refusal([none, tcg], 'kvm');
  assert.equal(error.code, 'unsupported');
  assert.match(error.message, /The accelerator kvm does not work on this node\. kvm: The processor shows neither/);
  assert.match(error.hint, /Set accelerator to auto or tcg/);
  const dead = judge('tcg', [attempt({ isRomFit: false, problem: 'qemu is not installed' })], null);
  assert.match(refusal([none, dead], 'auto').message, /No accelerator works on this node\..*qemu is not installed/);
});
