// What the probe ROM reports: I/O ports, records, and what their numbers mean. The ROM is written from this, and the
// prober reads its report by it.

/** I/O port that the records are written to: `-device isa-debugcon,iobase=0x402`. */
export const PROBE_REPORT_PORT = 0x402;

/** I/O port whose write ends QEMU: `-device isa-debug-exit,iobase=0xf4,iosize=0x04`. */
export const PROBE_EXIT_PORT = 0xf4;

/** What QEMU exits with when the ROM ran to its end: the device gives (value << 1) | 1, and the ROM writes 0x10. */
export const PROBE_EXIT_CODE = (0x10 << 1) | 1;

/** The first bytes of the report. */
export const PROBE_MAGIC = 'LODGEPRB';

/** The bytes of one record: a tag and a little-endian 64-bit value. */
export const PROBE_RECORD_BYTES = 9;

/** The tags of the records. */
export const PROBE_TAG = {
  /** EFER, read in long mode. */
  longMode: 0x01,
  /** CPUID leaf 0: EBX, EDX. */
  vendorFirst: 0x02,
  /** CPUID leaf 0: ECX. */
  vendorLast: 0x03,
  /** CPUID leaf 1: EAX (family, model, stepping), ECX (features). */
  features: 0x04,
  /** CPUID leaf 0x40000000: EBX, ECX. */
  hypervisorFirst: 0x05,
  /** CPUID leaf 0x40000000: EDX. */
  hypervisorLast: 0x06,
  /** Paging works: memory read back through another address, a page moved under an address. */
  paging: 0x07,
  /** The number of the kernel check that is tried next; when all passed, how many there are. */
  kernelCheck: 0x08,
  /** EFER after its system-call bit was cleared (low half) and set again (high half). */
  efer: 0x09,
  /** Timer interrupts that came. */
  interrupts: 0x0a,
  /** Ticks of the TSC … */
  calibrationTsc: 0x0b,
  /** … in this many ticks of the local APIC's timer (1 ns each in QEMU and KVM). */
  calibrationApic: 0x0c,
  /** A check failed: its number. */
  failedCheck: 0x70,
  /** An exception that nothing expected: the first three words of its stack frame and CR2 follow in four records. */
  unexpected: 0x71,
  /** Plus the number of the measurement: how often it ran. */
  count: 0x80,
  /** Plus the number of the measurement: the ticks it took. */
  ticks: 0xa0,
  /** The last record: how many came before it. */
  end: 0xff,
} as const;

/** What is measured; the index is the number in the tags. */
export const PROBE_MEASUREMENTS = [
  'kernelWorkLow',
  'kernelWorkHigh',
  'cpuid',
  'portWrite',
  'pageFault',
  'pageRemap',
  'addressSpaceSwitch',
  'msrWrite',
  'timerInterrupt',
  'userWork',
  'systemCall',
] as const;

export type ProbeMeasurement = (typeof PROBE_MEASUREMENTS)[number];

/** The checks in the order of their numbers, as a sentence each. */
export const PROBE_CHECKS: readonly string[] = [
  'long mode was not active after it was enabled',
  'memory written through a virtual address did not arrive at the physical address',
  'memory written at the physical address was not seen through a virtual address',
  'a page moved under a virtual address still showed its old content',
  'a page fault did not reach its handler or the page it mapped was not used',
  'EFER did not keep what was written to it',
  'a timer interrupt did not wake the halted processor',
  'an invalid opcode did not reach its handler',
  'a breakpoint did not reach its handler',
];

/** What the kernel checks try, in the order of their numbers. */
export const PROBE_KERNEL_CHECKS: readonly string[] = [
  'user mode, entered with IRETQ and left with SYSCALL',
  'the return from a system call (SYSRETQ)',
  'an invalid-opcode trap in kernel mode (UD2)',
  'a breakpoint in kernel mode (INT3)',
];
