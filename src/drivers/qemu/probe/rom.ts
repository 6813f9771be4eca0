// The probe ROM: a guest of 64 KiB that shows whether an accelerator runs 64-bit code, and what that costs. It is a
// BIOS image (`-bios`): the processor starts it at 0xFFFFFFF0 in real mode, it goes through protected mode to long mode
// with page tables of its own, tries what an operating system needs (4-level paging with addresses that differ from
// the physical ones, exceptions, demand paging, timer interrupts, MSRs, user mode), times it, and reports records over
// an ISA debug console. It needs no firmware, disk, PCI or ACPI, so it runs on the machine types q35, pc and microvm.
// Promises: the same bytes on every call; the listing shows every byte of code; a step that fails ends the guest with
// a record that names the step.
//
//   reset vector -> real mode -> protected mode -> long mode -> checks -> measurements -> kernel checks
//                                                                \             \               |
//                       a failed check or unexpected exception is reported -> exit     measurements of user mode -> exit
//
// Sources: Intel SDM volume 3, "First Instruction Executed", "Initializing IA-32e Mode", "4-Level Paging", "Exception and
// Interrupt Handling in 64-Bit Mode", "APIC Timer"; AMD APM volume 2, "SYSCALL and SYSRET", "Long-Mode Initialization".
import { Assembler } from './assembler.ts';
import { romImage, type ProbeRom } from './rom-image.ts';
import { CODE } from './rom-layout.ts';
import {
  emitEferCheck,
  emitEnd,
  emitEntry,
  emitHandlers,
  emitInterruptTable,
  emitKernelChecks,
  emitPageFaultCheck,
  emitPagingCheck,
  emitTimerCheck,
} from './rom-checks.ts';
import { callMeasure, emitMeasure, emitMeasured, emitSubroutines, emitTables } from './rom-measure.ts';

/** Builds the ROM. Always the same bytes. */
export function buildProbeRom(): ProbeRom {
  const code = new Assembler(CODE);
  emitEntry(code);
  emitInterruptTable(code);
  emitPagingCheck(code);
  emitPageFaultCheck(code);
  emitEferCheck(code);
  emitTimerCheck(code);
  callMeasure(code, 'table', 'table_user');
  emitKernelChecks(code);
  callMeasure(code, 'table_user', 'table_end');
  emitEnd(code);
  emitHandlers(code);
  emitSubroutines(code);
  emitMeasure(code);
  emitMeasured(code);
  emitTables(code);
  return romImage(code);
}
