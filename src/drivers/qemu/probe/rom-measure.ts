// What the probe ROM times, the loop that times it, its table, and the subroutines of all parts.
import { addressOf, type Assembler } from './assembler.ts';
import { PROBE_REPORT_PORT, PROBE_TAG, PROBE_MEASUREMENTS, type ProbeMeasurement } from './rom-format.ts';
import {
  PT_MAP,
  IDT,
  DATA,
  USER_STACK_TOP,
  PAGES,
  TSS_DESCRIPTOR,
  PAGE_COUNT,
  KERNEL_STACK,
  RECORDS,
  KERNEL_TEXT,
  DIRECT_MAP,
  USER_BASE,
  APIC,
  PRESENT_WRITABLE,
  SELECTOR_CODE64,
  SELECTOR_USER,
  TIMER_VECTOR,
  WORK_ROUNDS,
  ROUNDS,
  MEASURE_TICKS,
  word,
} from './rom-layout.ts';
import { emitDescriptors } from './rom-start.ts';

/** Runs the measurements of the table between two labels, all of them several times. */
export function callMeasure(code: Assembler, from: string, to: string): void {
  code.movImm32('rax', ROUNDS);
  code.label(`${from}_round`);
  code.push('rax');
  code.movImm32('rsi', addressOf(from));
  code.movImm32('rdx', addressOf(to));
  code.call('measure');
  code.pop('rax');
  code.step('dec', 'rax');
  code.jumpIf('nz', `${from}_round`);
}

export function emitMeasure(code: Assembler): void {
  code.comment(
    'measure: the lines of the table from rsi to rdx, each until enough ticks have passed. Changes everything.',
  );
  code.label('measure');
  code.push('rdx');
  code.push('rsi');
  code.load('r12', 'rsi', 0);
  code.load('r13', 'rsi', 8);
  code.load('rbp', 'rsi', 16);
  code.load('r14', 'rsi', 24);
  code.movImm32('r15', 0);
  code.call('read_tsc');
  code.mov('rbx', 'rax');
  code.label('batch');
  code.mov('rdi', 'rbp');
  code.callRegister('r12');
  code.arithmetic('add', 'r15', 'r13');
  code.call('read_tsc');
  code.arithmetic('sub', 'rax', 'rbx');
  code.arithmeticImm('cmp', 'rax', MEASURE_TICKS);
  code.jumpIf('b', 'batch');
  code.push('rax');
  code.mov('rdi', 'r14');
  code.arithmeticImm('add', 'rdi', PROBE_TAG.count);
  code.mov('rax', 'r15');
  code.call('report');
  code.pop('rax');
  code.mov('rdi', 'r14');
  code.arithmeticImm('add', 'rdi', PROBE_TAG.ticks);
  code.call('report');
  code.pop('rsi');
  code.arithmeticImm('add', 'rsi', 32);
  code.pop('rdx');
  code.arithmetic('cmp', 'rsi', 'rdx');
  code.jumpIf('b', 'measure');
  code.plain('ret');
}

export function emitSubroutines(code: Assembler): void {
  code.comment('report: tag in rdi, value in rax. Changes rax, rcx, rdx, rdi.');
  code.label('report');
  code.movImm32('rdx', PROBE_REPORT_PORT);
  code.push('rax');
  code.mov('rax', 'rdi');
  code.plain('out dx, al');
  code.movImm32('rdi', DATA);
  code.load('rax', 'rdi', RECORDS);
  code.step('inc', 'rax');
  code.store('rdi', RECORDS, 'rax');
  code.pop('rax');
  code.movImm32('rcx', 8);
  code.label('send_bytes');
  code.plain('out dx, al');
  code.shift('shr', 'rax', 8);
  code.step('dec', 'rcx');
  code.jumpIf('nz', 'send_bytes');
  code.plain('ret');

  code.comment('read_tsc: into rax. Changes rdx.');
  code.label('read_tsc');
  code.plain('rdtsc');
  code.shift('shl', 'rdx', 32);
  code.arithmetic('or', 'rax', 'rdx');
  code.plain('ret');

  code.comment('set_gate: vector in rdi, handler (below 4 GiB) in rax. Changes rax, rcx, rdi.');
  code.label('set_gate');
  code.shift('shl', 'rdi', 4);
  code.arithmeticImm('add', 'rdi', IDT);
  code.mov('rcx', 'rax');
  code.arithmeticImm('and', 'rcx', 0xffff);
  code.shift('shr', 'rax', 16);
  code.shift('shl', 'rax', 48);
  code.arithmetic('or', 'rax', 'rcx');
  code.comment('Present, ring 0, 64-bit interrupt gate, code segment.');
  code.movImm64('rcx', (0x8e00n << 32n) | (BigInt(SELECTOR_CODE64) << 16n));
  code.arithmetic('or', 'rax', 'rcx');
  code.store('rdi', 0, 'rax');
  code.movImm32('rax', 0);
  code.store('rdi', 8, 'rax');
  code.plain('ret');

  code.comment('map_pages: all pages at the direct map. Changes rax, rcx, rdi.');
  code.label('map_pages');
  code.movImm32('rdi', PT_MAP);
  code.movImm32('rax', PAGES + PRESENT_WRITABLE);
  code.movImm32('rcx', PAGE_COUNT);
  code.label('map_next');
  code.store('rdi', 0, 'rax');
  code.arithmeticImm('add', 'rax', 0x1000);
  code.arithmeticImm('add', 'rdi', 8);
  code.step('dec', 'rcx');
  code.jumpIf('nz', 'map_next');
  code.plain('ret');

  code.comment('wait_for_timer: an interrupt 1 µs from now, halted until it comes. Changes rax, rsi.');
  code.label('wait_for_timer');
  code.movImm32('rsi', APIC);
  code.movImm32('rax', 1000);
  code.store32('rsi', 0x380, 'rax');
  code.comment('STI takes effect after the next instruction, so the interrupt can not slip in before HLT.');
  code.plain('sti');
  code.plain('hlt');
  code.plain('cli');
  code.plain('ret');
}

export function emitMeasured(code: Assembler): void {
  const repeat = (label: string, times: number, body: () => void): void => {
    code.label(label);
    code.movImm32('r8', times);
    code.label(`${label}_next`);
    body();
    code.step('dec', 'r8');
    code.jumpIf('nz', `${label}_next`);
    code.plain('ret');
  };
  code.comment(
    'Plain work at the address in rdi: load, arithmetic, store, call, branch; no exits. Rounds of 10 instructions.',
  );
  repeat('work', WORK_ROUNDS, () => {
    code.load('rax', 'rdi', 0);
    code.arithmetic('add', 'rax', 'r8');
    code.store('rdi', 0, 'rax');
    code.call('leaf');
    code.arithmetic('xor', 'rax', 'r8');
    code.store('rdi', 0x40, 'rax');
  });
  code.label('leaf');
  code.shift('shl', 'rax', 1);
  code.plain('ret');

  code.comment(
    'User mode: save the stack, IRETQ (SS, RSP, RFLAGS, CS, RIP) into the program in rdi; its last system call returns from here.',
  );
  code.label('run_user');
  code.movImm32('rax', DATA);
  code.store('rax', KERNEL_STACK, 'rsp');
  for (const value of [SELECTOR_USER + 8 + 3, USER_BASE + USER_STACK_TOP, 2, SELECTOR_USER + 16 + 3]) {
    code.movImm32('rax', value);
    code.push('rax');
  }
  code.push('rdi');
  code.plain('iretq');
  code.label('user_work');
  code.movImm32('rdi', USER_BASE + PAGES);
  code.call('work');
  code.movImm32('rsi', 1);
  code.plain('syscall');
  code.label('user_calls');
  code.movImm32('rsi', 0);
  code.movImm32('r8', 64);
  code.label('user_calls_next');
  code.plain('syscall');
  code.step('dec', 'r8');
  code.jumpIf('nz', 'user_calls_next');
  code.movImm32('rsi', 1);
  code.plain('syscall');

  code.comment('What leaves the guest under hardware virtualization.');
  repeat('cpuid_exits', 16, () => {
    code.push('rbx');
    code.movImm32('rax', 0);
    code.movImm32('rcx', 0);
    code.plain('cpuid');
    code.pop('rbx');
  });
  code.comment('Port 0x80 is the POST code port: a write has no effect.');
  repeat('port_writes', 16, () => {
    code.movImm32('rdx', 0x80);
    code.plain('out dx, al');
  });

  code.comment('Page faults: take all pages away, touch each, the handler maps it again.');
  code.label('page_faults');
  code.push('rdi');
  code.movImm32('rcx', PT_MAP);
  code.movImm32('rax', 0);
  code.movImm32('r8', PAGE_COUNT);
  code.label('unmap_next');
  code.store('rcx', 0, 'rax');
  code.invalidatePage('rdi');
  code.arithmeticImm('add', 'rcx', 8);
  code.arithmeticImm('add', 'rdi', 0x1000);
  code.step('dec', 'r8');
  code.jumpIf('nz', 'unmap_next');
  code.pop('rdi');
  code.movImm32('r8', PAGE_COUNT);
  code.label('touch_next');
  code.store('rdi', 0, 'rax');
  code.arithmeticImm('add', 'rdi', 0x1000);
  code.step('dec', 'r8');
  code.jumpIf('nz', 'touch_next');
  code.plain('ret');

  code.comment('Pages change under an address: write the entry, invalidate, touch.');
  code.label('page_remaps');
  code.movImm32('rcx', PT_MAP);
  code.movImm32('rax', PAGES + PRESENT_WRITABLE);
  code.movImm32('r8', 16);
  code.label('remap_next');
  code.arithmeticImm('xor', 'rax', 0x1000);
  code.store('rcx', 0, 'rax');
  code.invalidatePage('rdi');
  code.store('rdi', 0, 'rax');
  code.step('dec', 'r8');
  code.jumpIf('nz', 'remap_next');
  code.plain('ret');

  code.comment('Address space switches: load CR3 and touch a page again.');
  repeat('space_switches', 16, () => {
    code.readControl('rax', 3);
    code.writeControl(3, 'rax');
    code.store('rdi', 0, 'rax');
  });

  code.comment('FS base, which an operating system writes on every context switch.');
  repeat('msr_writes', 16, () => {
    code.movImm32('rcx', 0xc0000100);
    code.movImm32('rax', 0);
    code.movImm32('rdx', 0);
    code.plain('wrmsr');
  });
  repeat('timer_interrupts', 4, () => code.call('wait_for_timer'));
}

export function emitTables(code: Assembler): void {
  code.comment('The table of measurements: code, times in a batch, argument, number.');
  code.padTo((code.offset + 7) & ~7);
  code.label('table');
  const lines: Record<ProbeMeasurement, [string, number, bigint | string, bigint]> = {
    kernelWorkLow: ['work', WORK_ROUNDS, BigInt(PAGES), 0n],
    kernelWorkHigh: ['work', WORK_ROUNDS, DIRECT_MAP, KERNEL_TEXT],
    userWork: ['run_user', WORK_ROUNDS, 'user_work', 0n],
    systemCall: ['run_user', 64, 'user_calls', 0n],
    cpuid: ['cpuid_exits', 16, 0n, 0n],
    portWrite: ['port_writes', 16, 0n, 0n],
    pageFault: ['page_faults', PAGE_COUNT, DIRECT_MAP, 0n],
    pageRemap: ['page_remaps', 16, DIRECT_MAP, 0n],
    addressSpaceSwitch: ['space_switches', 16, DIRECT_MAP, 0n],
    msrWrite: ['msr_writes', 16, 0n, 0n],
    timerInterrupt: ['timer_interrupts', 4, 0n, 0n],
  };
  PROBE_MEASUREMENTS.forEach((name, number) => {
    const [label, times, argument, base] = lines[name];
    const quad = (value: bigint): number[] =>
      word(Number(value & 0xffffffffn), 4).concat(word(Number(value >> 32n), 4));
    if (name === 'userWork') code.label('table_user');
    code.comment(name);
    code.rawTo(`dq ${label}`, [], 8, addressOf(label, base));
    code.raw(`dq ${times}`, ...word(times, 8));
    if (typeof argument === 'string') code.rawTo(`dq ${argument}`, [], 8, addressOf(argument, BigInt(USER_BASE)));
    else code.raw(`dq 0x${argument.toString(16)}`, ...quad(argument));
    code.raw(`dq ${number}`, ...word(number, 8));
  });
  code.label('table_end');
  emitDescriptorTables(code);
}

/** Segments with the task state, and the pointers to them and to the interrupt table. */
export function emitDescriptorTables(code: Assembler): void {
  code.padTo((code.offset + 7) & ~7);
  code.label('gdt');
  emitDescriptors(code);
  code.comment('Task state segment, 64 bits, available: two entries.');
  code.raw(
    `dq 0x${TSS_DESCRIPTOR.toString(16)}`,
    ...word(Number(TSS_DESCRIPTOR & 0xffffffffn), 4),
    ...word(Number(TSS_DESCRIPTOR >> 32n), 4),
  );
  code.raw('dq 0', ...word(0, 8));
  code.label('gdt_pointer');
  code.raw('dw 79', ...word(79, 2));
  code.rawTo('dq gdt', [], 8, addressOf('gdt'));
  code.label('idt_pointer');
  code.raw(`dw 0x${(TIMER_VECTOR * 16 + 15).toString(16)}`, ...word(TIMER_VECTOR * 16 + 15, 2));
  code.raw(`dq 0x${IDT.toString(16)}`, ...word(IDT, 8));
}
