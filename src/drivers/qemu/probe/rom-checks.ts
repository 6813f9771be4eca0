// What the probe ROM tries in long mode, and the handlers of exceptions, interrupts and system calls.
// Sources: Intel SDM volume 3, "Invalidation of TLBs", "Exception and Interrupt Handling in 64-Bit Mode", "Task
// Management in 64-bit Mode", "APIC Timer"; AMD APM volume 2, "SYSCALL and SYSRET".
import { addressOf, type Assembler } from './assembler.ts';
import { PROBE_REPORT_PORT, PROBE_EXIT_PORT, PROBE_MAGIC, PROBE_TAG, PROBE_KERNEL_CHECKS } from './rom-format.ts';
import {
  PT_MAP,
  DATA,
  STACK_TOP,
  PAGES,
  TSS,
  EXCEPTION_STACK_TOP,
  PAGE_COUNT,
  BREAKPOINTS,
  INVALID_OPCODES,
  PAGE_FAULTS,
  INTERRUPTS,
  KERNEL_STACK,
  RECORDS,
  DIRECT_MAP,
  USER_BASE,
  APIC,
  PRESENT_WRITABLE,
  SELECTOR_CODE64,
  SELECTOR_USER,
  SELECTOR_TSS,
  TIMER_VECTOR,
  MEASURE_TICKS,
  report,
  failUnlessEqual,
} from './rom-layout.ts';

export function emitEntry(code: Assembler): void {
  code.comment('64-bit entry. The report opens with its magic, then EFER shows that long mode is active.');
  code.label('entry64');
  code.movImm32('rsp', STACK_TOP);
  code.movImm64('rax', Buffer.from(PROBE_MAGIC).readBigUInt64LE());
  code.movImm32('rdx', PROBE_REPORT_PORT);
  code.movImm32('rcx', 8);
  code.call('send_bytes');
  code.movImm32('rcx', 0xc0000080);
  code.plain('rdmsr');
  code.mov('rbx', 'rax');
  report(code, PROBE_TAG.longMode);
  code.comment('LMA is bit 10.');
  code.arithmeticImm('and', 'rbx', 0x400);
  code.arithmeticImm('cmp', 'rbx', 0x400);
  failUnlessEqual(code, 0);

  code.comment('Who are we running on: processor vendor, features, hypervisor signature.');
  const cpuid = (leaf: number): void => {
    code.movImm32('rax', leaf);
    code.movImm32('rcx', 0);
    code.plain('cpuid');
  };
  const reportPair = (low: 'rax' | 'rbx', high: 'rcx' | 'rdx', tag: number): void => {
    code.shift('shl', high, 32);
    code.arithmetic('or', low, high);
    if (low !== 'rax') code.mov('rax', low);
    report(code, tag);
  };
  cpuid(0);
  code.push('rcx');
  reportPair('rbx', 'rdx', PROBE_TAG.vendorFirst);
  code.pop('rax');
  report(code, PROBE_TAG.vendorLast);
  cpuid(1);
  reportPair('rax', 'rcx', PROBE_TAG.features);
  cpuid(0x40000000);
  code.push('rdx');
  reportPair('rbx', 'rcx', PROBE_TAG.hypervisorFirst);
  code.pop('rax');
  report(code, PROBE_TAG.hypervisorLast);
}

export function emitInterruptTable(code: Assembler): void {
  code.comment('Interrupt table: everything is unexpected except #BP, #UD, #PF and the timer.');
  code.movImm32('rsi', 0);
  code.label('fill_gates');
  code.mov('rdi', 'rsi');
  code.movImm32('rax', addressOf('unexpected'));
  code.call('set_gate');
  code.step('inc', 'rsi');
  code.arithmeticImm('cmp', 'rsi', 32);
  code.jumpIf('b', 'fill_gates');
  for (const [vector, handler] of [
    [3, 'on_breakpoint'],
    [6, 'on_invalid_opcode'],
    [14, 'on_page_fault'],
    [TIMER_VECTOR, 'on_timer'],
  ] as const) {
    code.movImm32('rdi', vector);
    code.movImm32('rax', addressOf(handler));
    code.call('set_gate');
  }
  code.movImm32('rax', addressOf('idt_pointer'));
  code.loadInterruptTable('rax');

  code.comment('A descriptor table in RAM with a task state segment: the stack for exceptions in user mode.');
  code.movImm32('rax', addressOf('gdt_pointer'));
  code.loadDescriptorTable('rax');
  code.movImm32('rdi', TSS);
  code.movImm32('rax', EXCEPTION_STACK_TOP);
  code.store('rdi', 4, 'rax');
  code.movImm32('rax', SELECTOR_TSS);
  code.plain('ltr ax');
}

export function emitPagingCheck(code: Assembler): void {
  code.comment('Paging: map the pages at the direct map, and look from both sides.');
  code.call('map_pages');
  code.movImm64('rdi', DIRECT_MAP);
  code.movImm32('rsi', PAGES);
  code.movImm64('rax', 0x0123456789abcdefn);
  code.store('rdi', 0x1008, 'rax');
  code.load('rbx', 'rsi', 0x1008);
  code.arithmetic('cmp', 'rax', 'rbx');
  failUnlessEqual(code, 1);
  code.movImm64('rax', 0xfedcba9876543210n);
  code.store('rsi', 0x2010, 'rax');
  code.load('rbx', 'rdi', 0x2010);
  code.arithmetic('cmp', 'rax', 'rbx');
  failUnlessEqual(code, 2);

  code.comment('Move page 2 under the address of page 1: the old translation must be gone after INVLPG.');
  code.movImm32('rcx', PT_MAP);
  code.load('rdx', 'rcx', 8);
  code.load('rbx', 'rcx', 16);
  code.store('rcx', 8, 'rbx');
  code.movImm64('rsi', DIRECT_MAP + 0x1000n);
  code.invalidatePage('rsi');
  code.load('rbx', 'rsi', 0x10);
  code.store('rcx', 8, 'rdx');
  code.invalidatePage('rsi');
  code.arithmetic('cmp', 'rax', 'rbx');
  failUnlessEqual(code, 3);
  code.movImm32('rax', 1);
  report(code, PROBE_TAG.paging);
}

export function emitPageFaultCheck(code: Assembler): void {
  code.comment('Demand paging: a page that is only mapped when it is touched.');
  code.movImm32('rcx', PT_MAP);
  code.movImm32('rax', 0);
  code.store('rcx', 8, 'rax');
  code.movImm64('rsi', DIRECT_MAP + 0x1000n);
  code.invalidatePage('rsi');
  code.movImm32('rax', 0x600d);
  code.store('rsi', 0x20, 'rax');
  code.movImm32('rdi', PAGES);
  code.load('rdx', 'rdi', 0x1020);
  code.arithmetic('cmp', 'rax', 'rdx');
  failUnlessEqual(code, 4);
  code.movImm32('rbx', DATA);
  code.load('rax', 'rbx', PAGE_FAULTS);
  code.arithmeticImm('cmp', 'rax', 1);
  failUnlessEqual(code, 4);
}

/**
 * What a kernel needs beyond that. An accelerator may give up on it in ways the guest can't notice (reset, stop), so
 * a record says beforehand what is tried.
 */
export function emitKernelChecks(code: Assembler): void {
  const attempt = (index: number): void => {
    code.comment(PROBE_KERNEL_CHECKS[index] ?? '');
    code.movImm32('rax', index);
    report(code, PROBE_TAG.kernelCheck);
  };
  attempt(0);
  code.movImm32('rdi', addressOf('user_work', BigInt(USER_BASE)));
  code.call('run_user');
  attempt(1);
  code.movImm32('rdi', addressOf('user_calls', BigInt(USER_BASE)));
  code.call('run_user');
  for (const [index, instruction, counter, check] of [
    [2, 'ud2', INVALID_OPCODES, 7],
    [3, 'int3', BREAKPOINTS, 8],
  ] as const) {
    attempt(index);
    code.movImm32('rbx', DATA);
    code.plain(instruction);
    code.load('rax', 'rbx', counter);
    code.arithmeticImm('cmp', 'rax', 1);
    failUnlessEqual(code, check);
  }
  attempt(PROBE_KERNEL_CHECKS.length);
}

export function emitEferCheck(code: Assembler): void {
  code.comment('EFER: clear the system-call bit and set it again, reading back each time.');
  code.movImm32('rcx', 0xc0000080);
  code.plain('rdmsr');
  code.mov('rsi', 'rax');
  code.arithmeticImm('and', 'rax', -2);
  code.plain('wrmsr');
  code.plain('rdmsr');
  code.mov('rbx', 'rax');
  code.mov('rax', 'rsi');
  code.plain('wrmsr');
  code.plain('rdmsr');
  code.mov('rdi', 'rax');
  code.shift('shl', 'rax', 32);
  code.arithmetic('or', 'rax', 'rbx');
  code.push('rdi');
  report(code, PROBE_TAG.efer);
  code.pop('rdi');
  code.step('inc', 'rbx');
  code.arithmetic('cmp', 'rbx', 'rdi');
  failUnlessEqual(code, 5);

  code.comment('System calls: STAR, LSTAR, SFMASK (interrupts stay off).');
  const writeMsr = (number: number, high: number, low: number | ReturnType<typeof addressOf>): void => {
    code.movImm32('rcx', number);
    code.movImm32('rax', low);
    code.movImm32('rdx', high);
    code.plain('wrmsr');
  };
  writeMsr(0xc0000081, ((SELECTOR_USER | 3) << 16) | SELECTOR_CODE64, 0);
  writeMsr(0xc0000082, 0, addressOf('on_system_call'));
  writeMsr(0xc0000084, 0, 0x200);
}

export function emitTimerCheck(code: Assembler): void {
  code.comment('Timer: the legacy interrupt controllers are masked, the local APIC wakes the halted processor.');
  for (const port of [0x21, 0xa1]) {
    code.movImm32('rdx', port);
    code.movImm32('rax', 0xff);
    code.plain('out dx, al');
  }
  code.movImm32('rsi', APIC);
  for (const [register, value] of [
    [0x0f0, 0x1ff],
    [0x350, 0x10000],
    [0x360, 0x10000],
    [0x3e0, 0x0b],
    [0x320, 0x10000 | TIMER_VECTOR],
  ] as const) {
    code.movImm32('rax', value);
    code.store32('rsi', register, 'rax');
  }

  code.comment('How fast does the TSC tick? Compare it with the APIC timer, which ticks in nanoseconds.');
  code.movImm32('rax', 0xffffffff);
  code.store32('rsi', 0x380, 'rax');
  code.call('read_tsc');
  code.mov('rbx', 'rax');
  code.load32('rbp', 'rsi', 0x390);
  code.label('calibrate');
  code.call('read_tsc');
  code.arithmetic('sub', 'rax', 'rbx');
  code.arithmeticImm('cmp', 'rax', MEASURE_TICKS);
  code.jumpIf('b', 'calibrate');
  code.load32('rcx', 'rsi', 0x390);
  code.arithmetic('sub', 'rbp', 'rcx');
  report(code, PROBE_TAG.calibrationTsc);
  code.mov('rax', 'rbp');
  report(code, PROBE_TAG.calibrationApic);

  code.movImm32('rsi', APIC);
  code.movImm32('rax', TIMER_VECTOR);
  code.store32('rsi', 0x320, 'rax');
  code.call('wait_for_timer');
  code.movImm32('rbx', DATA);
  code.load('rax', 'rbx', INTERRUPTS);
  report(code, PROBE_TAG.interrupts);
  code.load('rax', 'rbx', INTERRUPTS);
  code.arithmeticImm('cmp', 'rax', 1);
  failUnlessEqual(code, 6);
}

export function emitEnd(code: Assembler): void {
  code.comment('The end: how many records came before, then QEMU exits.');
  code.movImm32('rbx', DATA);
  code.load('rax', 'rbx', RECORDS);
  report(code, PROBE_TAG.end);
  code.movImm32('rax', 0x10);
  code.label('exit');
  code.movImm32('rdx', PROBE_EXIT_PORT);
  code.plain('out dx, al');
  code.label('halt');
  code.plain('cli');
  code.plain('hlt');
  code.jump('halt');

  code.comment('A check failed; its number is in rax.');
  code.label('failed');
  report(code, PROBE_TAG.failedCheck);
  code.movImm32('rax', 0x20);
  code.jump('exit');
}

export function emitHandlers(code: Assembler): void {
  const count = (offset: number): void => {
    code.push('rax');
    code.push('rbx');
    code.movImm32('rbx', DATA);
    code.load('rax', 'rbx', offset);
    code.step('inc', 'rax');
    code.store('rbx', offset, 'rax');
  };
  const leave = (): void => {
    code.pop('rbx');
    code.pop('rax');
  };
  code.comment('Handlers. The stack holds rbx, rax, then for #PF an error code, then the address to return to.');
  code.label('on_breakpoint');
  count(BREAKPOINTS);
  leave();
  code.plain('iretq');

  code.label('on_invalid_opcode');
  count(INVALID_OPCODES);
  code.comment('UD2 has two bytes: go on behind it.');
  code.mov('rbx', 'rsp');
  code.load('rax', 'rbx', 16);
  code.arithmeticImm('add', 'rax', 2);
  code.store('rbx', 16, 'rax');
  leave();
  code.plain('iretq');

  code.label('on_page_fault');
  count(PAGE_FAULTS);
  code.comment('The page table entry of the address in CR2 gets its page again; other addresses are unexpected.');
  code.readControl('rax', 2);
  code.movImm64('rbx', DIRECT_MAP);
  code.arithmetic('sub', 'rax', 'rbx');
  code.arithmeticImm('cmp', 'rax', PAGE_COUNT * 0x1000);
  code.jumpIf('ae', 'unexpected_fault');
  code.shift('shr', 'rax', 12);
  code.mov('rbx', 'rax');
  code.shift('shl', 'rax', 12);
  code.arithmeticImm('add', 'rax', PAGES + PRESENT_WRITABLE);
  code.shift('shl', 'rbx', 3);
  code.arithmeticImm('add', 'rbx', PT_MAP);
  code.store('rbx', 0, 'rax');
  leave();
  code.arithmeticImm('add', 'rsp', 8);
  code.plain('iretq');

  code.label('on_timer');
  count(INTERRUPTS);
  code.movImm32('rbx', APIC);
  code.movImm32('rax', 0);
  code.store32('rbx', 0x0b0, 'rax');
  leave();
  code.plain('iretq');

  code.comment('An exception nobody expected: the top of its stack frame and CR2 tell which.');
  code.label('unexpected_fault');
  leave();
  code.label('unexpected');
  code.mov('rbx', 'rsp');
  for (const offset of [0, 8, 16]) {
    code.load('rax', 'rbx', offset);
    report(code, PROBE_TAG.unexpected);
  }
  code.readControl('rax', 2);
  report(code, PROBE_TAG.unexpected);
  code.movImm32('rax', 0x21);
  code.jump('exit');

  code.comment('A system call. rsi = 0: straight back to user mode; else return to the kernel code that went there.');
  code.label('on_system_call');
  code.arithmeticImm('cmp', 'rsi', 0);
  code.jumpIf('nz', 'leave_user');
  code.plain('sysretq');
  code.label('leave_user');
  code.movImm32('rax', DATA);
  code.load('rsp', 'rax', KERNEL_STACK);
  code.plain('ret');
}
