import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../../test/support/temporary.ts';
import { findTracing, parseTrace, TracingUnavailableError } from './kvm-trace.ts';

const head = `# tracer: nop
#
# entries-in-buffer/entries-written: 9/1200   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
`;

test('events are counted by what they tell, and those that did not fit are known by their number', () => {
  const text = `${head}       CPU 0/KVM-4711    [001] d...1  38192.364028: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xffff info1 0x0000000000800040 info2 0x0 intr_info 0x0 error_code 0x0 requests 0x0
       CPU 0/KVM-4711    [001] ....1  38192.364029: kvm_pio: pio_write at 0x80 size 1 count 1 val 0x0
       CPU 0/KVM-4711    [001] ....1  38192.364029: kvm_userspace_exit: reason KVM_EXIT_IO (2)
       CPU 0/KVM-4711    [001] d...1  38192.364030: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xffff info1 0x0 info2 0x0
 qemu-system-x86-21151   [000] .....  38192.364031: kvm_mmio: mmio read len 4 gpa 0xfed000f0 val 0x8086a201
 qemu-system-x86-21151   [000] .....  38192.364031: kvm_mmio: mmio read len 4 gpa 0xfed00000 val 0x8086a201
 qemu-system-x86-21151   [000] .....  38192.364032: kvm_msr: msr_write 1b = 0xfee00900
 qemu-system-x86-21151   [000] .....  38192.364033: kvm_cpuid: func 40000000 idx 0 rax 40000001 rbx 4b4d564b
 qemu-system-x86-21151   [000] .....  38192.364034: kvm_exit: vcpu 1 reason npf rip 0x10 info1 0x1 info2 0x2
 qemu-system-x86-21151   [000] .....  38192.364034: sched_switch: prev_comm=x
`;
  assert.deepEqual(parseTrace(text), {
    written: 1200,
    seen: 9,
    kinds: [
      { event: 'kvm_exit', kind: 'IO_INSTRUCTION', count: 2 },
      { event: 'kvm_mmio', kind: 'read page 0xfed00000', count: 2 },
      { event: 'kvm_pio', kind: 'write 0x80', count: 1 },
      { event: 'kvm_userspace_exit', kind: 'KVM_EXIT_IO', count: 1 },
      { event: 'kvm_msr', kind: 'write 0x1b', count: 1 },
      { event: 'kvm_cpuid', kind: '0x40000000', count: 1 },
      { event: 'kvm_exit', kind: 'npf', count: 1 },
    ],
  });
});

test('an empty trace holds nothing', () => {
  assert.deepEqual(parseTrace(head.replace('9/1200', '0/0')), { written: 0, seen: 0, kinds: [] });
});

test('without tracefs, and without events of KVM, it is said what is missing', async (t) => {
  const folder = await temporaryFolder(t);
  assert.throws(() => findTracing([join(folder, 'none')]), /mount -t tracefs/);
  await mkdir(join(folder, 'instances'));
  assert.throws(() => findTracing([join(folder, 'none'), folder]), TracingUnavailableError);
  await mkdir(join(folder, 'events/kvm'), { recursive: true });
  assert.equal(findTracing([join(folder, 'none'), folder]), folder);
});
