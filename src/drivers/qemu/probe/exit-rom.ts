// The ROM that times what leaves a guest: on the way to long mode it is the probe ROM; then it does each operation in batches
// and reports the ticks of every batch, so that medians and their spread can be told. Promises: the same bytes on every call.
//
// What it does it does where an exit is expected: port 0x21 is the interrupt controller that KVM plays itself, port 0x80 has
// QEMU behind it; likewise the local APIC and the HPET. IA32_PAT is a register that KVM keeps for the guest.
//
// Sources: Intel SDM volume 3, "Instructions That Cause VM Exits", "Local APIC", "Page Attribute Table"; AMD64 APM volume 2,
// "Secure Virtual Machine"; IA-PC HPET specification; the kernel's Documentation/virt/kvm/x86/hypercalls.rst.
import { addressOf, type Assembler as Code, Assembler } from './assembler.ts';
import {
  EXIT_BATCH,
  EXIT_OPERATIONS,
  EXIT_SAMPLES,
  EXIT_TAG,
  FRESH_MEMORY,
  type ExitOperation,
} from './exit-format.ts';
import { romImage, type ProbeRom } from './rom-image.ts';
import { emitEnd, emitEntry, emitHandlers, emitInterruptTable, emitTimerCheck } from './rom-checks.ts';
import {
  APIC,
  CODE,
  DATA,
  INTERRUPTS,
  INVALID_OPCODES,
  IDT,
  KERNEL_TEXT,
  LARGE,
  PD_DEVICES,
  PD_LOW,
  PRESENT_WRITABLE,
  report,
  TIMER_VECTOR,
  UNCACHED,
} from './rom-layout.ts';
import { emitDescriptorTables, emitSubroutines } from './rom-measure.ts';

/** Offset in DATA: the next page that was never touched. */
const NEXT_PAGE = 0x80;
/** The vendor of the processor in EBX of CPUID leaf 0: "Genu". */
const INTEL = 0x756e6547;
const HPET = 0xfed00000;
const PAT = 0x277;
/** Interrupt command register of the local APIC, low half; its short form for "to myself". */
const [ICR, TO_SELF] = [0x300, 0x40000];
const largePage = 0x200000;

/** Builds the ROM, without operations that a guest is known not to come back from. Always the same bytes. */
export function buildExitRom(without: ReadonlySet<ExitOperation> = new Set()): ProbeRom {
  const code = new Assembler(CODE);
  emitEntry(code);
  emitInterruptTable(code);
  emitTimerCheck(code);
  emitMaps(code);
  emitMove(code);
  EXIT_OPERATIONS.forEach((operation, number) => {
    if (!without.has(operation)) emitSamples(code, operation, number);
  });
  code.movImm32('rbx', DATA);
  code.load('rax', 'rbx', INVALID_OPCODES);
  report(code, EXIT_TAG.refused);
  emitEnd(code);
  emitHandlers(code);
  emitRefusal(code);
  emitSubroutines(code);
  for (const operation of EXIT_OPERATIONS) emitOperation(code, operation);
  emitDescriptorTables(code);
  return romImage(code);
}

function emitMaps(code: Code): void {
  code.comment(
    'The HPET, uncached, and memory that is touched for the first time: large pages, so that the guest’s own',
  );
  code.comment('paging has nothing to do with it.');
  const map = (entry: number, value: number): void => {
    code.movImm32('rbx', entry);
    code.movImm32('rax', value);
    code.store('rbx', 0, 'rax');
  };
  map(
    PD_DEVICES + 8 * Math.floor((HPET - 0xc0000000) / largePage),
    HPET - (HPET % largePage) + (PRESENT_WRITABLE | UNCACHED | LARGE),
  );
  const fresh = EXIT_SAMPLES * EXIT_BATCH.firstTouch * 0x1000;
  for (let at = FRESH_MEMORY; at < FRESH_MEMORY + fresh; at += largePage)
    map(PD_LOW + 8 * (at / largePage), at + (PRESENT_WRITABLE | LARGE));
  map(DATA + NEXT_PAGE, FRESH_MEMORY);
}

function emitMove(code: Code): void {
  code.comment(
    'From here on where a kernel runs: a KVM without VT-x and AMD-V runs kernel code natively only there. Code, stack',
  );
  code.comment('and handlers go together. An instruction for hypercalls that is none here is jumped over.');
  for (const [vector, handler] of [
    [TIMER_VECTOR, 'on_timer'],
    [6, 'on_refusal'],
  ] as const) {
    code.movImm32('rdi', vector);
    code.movImm64('rax', addressOf(handler, KERNEL_TEXT));
    code.mov('rbx', 'rax');
    code.shift('shl', 'rax', 32);
    code.shift('shr', 'rax', 32);
    code.call('set_gate');
    code.comment('set_gate knows the low half of an address only.');
    code.shift('shr', 'rbx', 32);
    code.movImm32('rdi', IDT + 16 * vector + 8);
    code.store('rdi', 0, 'rbx');
  }
  code.movImm64('rax', KERNEL_TEXT);
  code.arithmetic('add', 'rsp', 'rax');
  code.movImm64('rax', addressOf('moved', KERNEL_TEXT));
  code.callRegister('rax');
  code.label('moved');
  code.pop('rax');
}

function emitSamples(code: Code, operation: ExitOperation, number: number): void {
  code.comment(operation);
  code.movImm32('rax', number);
  report(code, EXIT_TAG.begin + number);
  code.movImm32('r15', EXIT_SAMPLES);
  code.label(`sample_${operation}`);
  code.call('read_tsc');
  code.mov('r14', 'rax');
  code.call(`do_${operation}`);
  code.call('read_tsc');
  code.arithmetic('sub', 'rax', 'r14');
  report(code, EXIT_TAG.sample + number);
  code.step('dec', 'r15');
  code.jumpIf('nz', `sample_${operation}`);
}

function emitRefusal(code: Code): void {
  code.label('on_refusal');
  code.push('rax');
  code.push('rbx');
  code.movImm32('rbx', DATA);
  code.load('rax', 'rbx', INVALID_OPCODES);
  code.step('inc', 'rax');
  code.store('rbx', INVALID_OPCODES, 'rax');
  code.mov('rbx', 'rsp');
  code.load('rax', 'rbx', 16);
  code.arithmeticImm('add', 'rax', 3);
  code.store('rbx', 16, 'rax');
  code.pop('rbx');
  code.pop('rax');
  code.plain('iretq');
}

/** A batch. May change every register but r14, r15 and rsp. */
function emitOperation(code: Code, operation: ExitOperation): void {
  const repeat = (body: () => void): void => {
    code.movImm32('r8', EXIT_BATCH[operation]);
    code.label(`next_${operation}`);
    body();
    code.step('dec', 'r8');
    code.jumpIf('nz', `next_${operation}`);
    code.plain('ret');
  };
  const sendToSelf = (): void => {
    code.movImm32('rsi', APIC);
    code.movImm32('rax', TO_SELF | TIMER_VECTOR);
    code.store32('rsi', ICR, 'rax');
  };
  code.label(`do_${operation}`);
  switch (operation) {
    case 'none':
      return repeat(() => code.plain('nop'));
    case 'cpuid':
      return repeat(() => {
        code.movImm32('rax', 0);
        code.movImm32('rcx', 0);
        code.plain('cpuid');
      });
    case 'portKernel':
      code.movImm32('rdx', 0x21);
      return repeat(() => code.plain('in al, dx'));
    case 'portQemu':
      code.movImm32('rdx', 0x80);
      return repeat(() => code.plain('out dx, al'));
    case 'mmioKernel':
      code.comment('The version of the local APIC.');
      code.movImm32('rsi', APIC);
      return repeat(() => code.load32('rax', 'rsi', 0x30));
    case 'mmioQemu':
      code.comment('The abilities of the HPET.');
      code.movImm32('rsi', HPET);
      return repeat(() => code.load32('rax', 'rsi', 0));
    case 'msrRead':
      code.movImm32('rcx', PAT);
      return repeat(() => code.plain('rdmsr'));
    case 'msrWrite':
      code.movImm32('rcx', PAT);
      code.plain('rdmsr');
      return repeat(() => code.plain('wrmsr'));
    case 'ipi':
      return repeat(() => {
        code.movImm32('rbx', DATA);
        code.load('rdi', 'rbx', INTERRUPTS);
        code.plain('sti');
        sendToSelf();
        code.comment('Until it has arrived: an emulated processor looks for interrupts at branches only.');
        code.label('ipi_awaited');
        code.load('rax', 'rbx', INTERRUPTS);
        code.arithmetic('cmp', 'rax', 'rdi');
        code.jumpIf('z', 'ipi_awaited');
        code.plain('cli');
      });
    case 'halt':
      return repeat(() => {
        sendToSelf();
        code.comment('The interrupt waits already; STI lets it in only behind HLT.');
        code.plain('sti');
        code.plain('hlt');
        code.plain('cli');
      });
    case 'firstTouch':
      code.movImm32('rbx', DATA);
      code.load('rdi', 'rbx', NEXT_PAGE);
      code.movImm32('r8', EXIT_BATCH.firstTouch);
      code.label('touch');
      code.store('rdi', 0, 'rdi');
      code.arithmeticImm('add', 'rdi', 0x1000);
      code.step('dec', 'r8');
      code.jumpIf('nz', 'touch');
      code.store('rbx', NEXT_PAGE, 'rdi');
      return code.plain('ret');
    case 'hypercall': {
      code.comment('Intel has another instruction for it than AMD. Hypercall 1 of KVM does nothing but return.');
      code.movImm32('rax', 0);
      code.plain('cpuid');
      code.arithmeticImm('cmp', 'rbx', INTEL);
      code.jumpIf('z', 'vmcall');
      const call = (): void => {
        code.movImm32('rax', 1);
      };
      repeat(() => {
        call();
        code.plain('vmmcall');
      });
      code.label('vmcall');
      code.movImm32('r8', EXIT_BATCH.hypercall);
      code.label('next_vmcall');
      call();
      code.plain('vmcall');
      code.step('dec', 'r8');
      code.jumpIf('nz', 'next_vmcall');
      return code.plain('ret');
    }
  }
}
