// Where the probe ROM keeps things in the guest's memory, and the pieces of code that all of its parts use.
import { type Assembler } from './assembler.ts';

export const ROM_BYTES = 0x10000;
export const ROM_ADDRESS = 0xffff0000;
/** Where the code that enters long mode lies in the ROM; the rest before it is the 64-bit part. */
export const START_OFFSET = 0xf000;

// Physical memory of the guest.
export const PML4 = 0x1000;
export const PDPT_LOW = 0x2000;
export const PD_LOW = 0x3000;
export const PD_DEVICES = 0x4000;
export const PDPT_HIGH = 0x5000;
export const PD_HIGH = 0x6000;
export const PDPT_MAP = 0x7000;
export const PD_MAP = 0x8000;
export const PT_MAP = 0x9000;
export const IDT = 0xa000;
export const DATA = 0xb000;
export const STACK_TOP = 0xd000;
export const USER_STACK_TOP = 0xe000;
export const CODE = 0x10000;
export const PAGES = 0x20000;
export const TSS = DATA + 0x100;
export const EXCEPTION_STACK_TOP = 0xf000;
/** SDM volume 3, "TSS Descriptor in 64-bit Mode": limit 0x67, type 9, present. */
export const TSS_DESCRIPTOR = 0x0000890000000067n | (BigInt(TSS) << 16n);
export const PAGE_COUNT = 64;

// Offsets in DATA.
export const BREAKPOINTS = 0x00;
export const INVALID_OPCODES = 0x08;
export const PAGE_FAULTS = 0x10;
export const INTERRUPTS = 0x18;
export const KERNEL_STACK = 0x20;
export const RECORDS = 0x28;

// Virtual addresses: the same places as in a Linux kernel (Documentation/arch/x86/x86_64/mm.rst).
export const KERNEL_TEXT = 0xffffffff81000000n;
export const DIRECT_MAP = 0xffff888000000000n;
export const USER_BASE = 0x400000;
export const APIC = 0xfee00000;

// Bits of page table entries.
export const PRESENT_WRITABLE = 0x3;
export const USER = 0x4;
export const UNCACHED = 0x10;
export const LARGE = 0x80;

export const SELECTOR_CODE32 = 0x08;
export const SELECTOR_DATA = 0x10;
export const SELECTOR_CODE64 = 0x18;
export const SELECTOR_USER = 0x28;
export const SELECTOR_TSS = 0x40;

export const TIMER_VECTOR = 0x40;
export const WORK_ROUNDS = 1000;
export const ROUNDS = 3;
/** A measurement runs for at least this many ticks: 0.5 to 1 ms. */
export const MEASURE_TICKS = 1 << 21;

/** The little-endian bytes of a number. */
export function word(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff);
}

/** mov rdi, tag; the value is in rax; call report */
export function report(code: Assembler, tag: number): void {
  code.movImm32('rdi', tag);
  code.call('report');
}

/** Ends the guest with the number of the check when the last comparison was not equal. */
export function failUnlessEqual(code: Assembler, check: number): void {
  const passed = `passed_${check}_${code.offset}`;
  code.jumpIf('z', passed);
  code.movImm32('rax', check);
  code.jump('failed');
  code.label(passed);
}
