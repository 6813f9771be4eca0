// The probe ROM's way from the reset vector to long mode: 16-bit and 32-bit code.
// Sources: Intel SDM volume 3, "First Instruction Executed", "Initializing IA-32e Mode", "4-Level Paging".
import { addressOf, type Assembler } from './assembler.ts';
import { PROBE_EXIT_PORT } from './rom-format.ts';
import {
  ROM_ADDRESS,
  PML4,
  PDPT_LOW,
  PD_LOW,
  PD_DEVICES,
  PDPT_HIGH,
  PD_HIGH,
  PDPT_MAP,
  PD_MAP,
  PT_MAP,
  DATA,
  CODE,
  APIC,
  PRESENT_WRITABLE,
  USER,
  UNCACHED,
  LARGE,
  SELECTOR_CODE32,
  SELECTOR_DATA,
  SELECTOR_CODE64,
  word,
} from './rom-layout.ts';

/** The flat segments, all marked accessed, so that the processor never writes to the table in the ROM. */
export function emitDescriptors(code: Assembler): void {
  code.raw('dq 0', ...word(0, 8));
  for (const [text, high] of [
    ['code, 32 bits', 0x00cf9b00],
    ['data', 0x00cf9300],
    ['code, 64 bits', 0x00af9b00],
    ['data, for SYSCALL', 0x00cf9300],
    ['user code, 32 bits', 0x00cffb00],
    ['user data', 0x00cff300],
    ['user code, 64 bits', 0x00affb00],
  ] as const) {
    code.raw(`dq 0x${high.toString(16).padStart(8, '0')}0000ffff ; ${text}`, 0xff, 0xff, 0, 0, ...word(high, 4));
  }
}

/** From the reset vector to long mode: 16-bit and 32-bit code, which lies and runs in the ROM. */
export function emitStart(start: Assembler, entry64: number, codeBytes: number): void {
  const hex = (value: number): string => `0x${value.toString(16)}`;
  start.comment(
    'Real mode. CS has the base 0xFFFF0000, so the table is found through CS; the prefix 66 makes it 32 bits.',
  );
  start.label('start16');
  start.plain('cli');
  start.plain('cld');
  start.rawTo(
    'o32 lgdt [cs:gdt_pointer]',
    [0x66, 0x2e, 0x0f, 0x01, 0x16],
    2,
    addressOf('gdt_pointer', -BigInt(ROM_ADDRESS)),
  );
  start.raw('mov eax, 0x11', 0x66, 0xb8, ...word(0x11, 4));
  start.raw('mov cr0, eax', 0x0f, 0x22, 0xc0);
  start.rawTo(`jmp dword ${hex(SELECTOR_CODE32)}:start32`, [0x66, 0xea], 4, addressOf('start32'));
  start.raw(`dw ${hex(SELECTOR_CODE32)} ; the selector of the jump`, ...word(SELECTOR_CODE32, 2));

  start.comment('Protected mode: flat segments.');
  start.label('start32');
  start.raw(`mov eax, ${hex(SELECTOR_DATA)}`, 0xb8, ...word(SELECTOR_DATA, 4));
  start.raw('mov ds, eax', 0x8e, 0xd8);
  start.raw('mov es, eax', 0x8e, 0xc0);
  start.raw('mov ss, eax', 0x8e, 0xd0);

  start.comment('Without long mode (CPUID 0x80000001, EDX bit 29) there is nothing to probe: exit with code 0x22.');
  start.raw('mov eax, 0x80000001', 0xb8, ...word(0x80000001, 4));
  start.plain('cpuid');
  start.raw('bt edx, 29', 0x0f, 0xba, 0xe2, 29);
  start.rawTo('jc has_long_mode', [0x0f, 0x82], 4, addressOf('has_long_mode'), true);
  start.raw('mov al, 0x22', 0xb0, 0x22);
  start.raw(`out ${hex(PROBE_EXIT_PORT)}, al`, 0xe6, PROBE_EXIT_PORT);
  start.plain('hlt');
  start.label('has_long_mode');

  start.comment('The 64-bit part goes to RAM.');
  start.raw(`mov esi, ${hex(ROM_ADDRESS)}`, 0xbe, ...word(ROM_ADDRESS, 4));
  start.raw(`mov edi, ${hex(CODE)}`, 0xbf, ...word(CODE, 4));
  start.raw(`mov ecx, ${hex(codeBytes)}`, 0xb9, ...word(codeBytes, 4));
  start.plain('rep movsb');
  start.comment('Page tables, interrupt table and data begin as zeros.');
  start.raw('xor eax, eax', 0x31, 0xc0);
  start.raw(`mov edi, ${hex(PML4)}`, 0xbf, ...word(PML4, 4));
  start.raw(`mov ecx, ${hex((DATA + 0x1000 - PML4) / 4)}`, 0xb9, ...word((DATA + 0x1000 - PML4) / 4, 4));
  start.plain('rep stosd');

  const entry = (table: number, index: number, value: number): void => {
    const address = table + 8 * index;
    start.raw(`mov dword [${hex(address)}], ${hex(value)}`, 0xc7, 0x05, ...word(address, 4), ...word(value, 4));
  };
  start.comment('Identity map: the first 2 MiB, the local APIC, the top of the ROM.');
  entry(PML4, 0, PDPT_LOW | PRESENT_WRITABLE | USER);
  entry(PDPT_LOW, 0, PD_LOW | PRESENT_WRITABLE | USER);
  entry(PD_LOW, 0, PRESENT_WRITABLE | LARGE);
  entry(PDPT_LOW, 3, PD_DEVICES | PRESENT_WRITABLE);
  entry(PD_DEVICES, (APIC - 0xc0000000) / 0x200000, APIC + (PRESENT_WRITABLE | UNCACHED | LARGE));
  entry(PD_DEVICES, 511, 0xffe00000 + (PRESENT_WRITABLE | LARGE));
  start.comment('The same 2 MiB for user mode at 0x400000, and where a kernel has its text, at 0xffffffff81000000.');
  entry(PD_LOW, 2, PRESENT_WRITABLE | USER | LARGE);
  entry(PML4, 511, PDPT_HIGH | PRESENT_WRITABLE);
  entry(PDPT_HIGH, 510, PD_HIGH | PRESENT_WRITABLE);
  entry(PD_HIGH, 8, PRESENT_WRITABLE | LARGE);
  start.comment('4 KiB pages at 0xffff888000000000; their table is filled later.');
  entry(PML4, 273, PDPT_MAP | PRESENT_WRITABLE);
  entry(PDPT_MAP, 0, PD_MAP | PRESENT_WRITABLE);
  entry(PD_MAP, 0, PT_MAP | PRESENT_WRITABLE);

  start.comment('Long mode: PAE, page tables, EFER (long mode, no-execute, system calls), paging.');
  start.raw('mov eax, 0x20', 0xb8, ...word(0x20, 4));
  start.raw('mov cr4, eax', 0x0f, 0x22, 0xe0);
  start.raw(`mov eax, ${hex(PML4)}`, 0xb8, ...word(PML4, 4));
  start.raw('mov cr3, eax', 0x0f, 0x22, 0xd8);
  start.raw('mov ecx, 0xc0000080', 0xb9, ...word(0xc0000080, 4));
  start.plain('rdmsr');
  start.raw('or eax, 0x901', 0x0d, ...word(0x901, 4));
  start.plain('wrmsr');
  start.raw('mov eax, 0x80010011', 0xb8, ...word(0x80010011, 4));
  start.raw('mov cr0, eax', 0x0f, 0x22, 0xc0);
  start.raw(`jmp ${hex(SELECTOR_CODE64)}:${hex(entry64)}`, 0xea, ...word(entry64, 4), ...word(SELECTOR_CODE64, 2));

  start.comment('Segments until the 64-bit part loads its own table.');
  start.padTo((start.offset + 7) & ~7);
  start.label('gdt');
  emitDescriptors(start);
  start.label('gdt_pointer');
  start.raw('dw 63', ...word(63, 2));
  start.rawTo('dd gdt', [], 4, addressOf('gdt'));

  start.padTo(0xff0);
  start.comment('The reset vector.');
  start.label('reset');
  start.rawTo('jmp start16', [0xe9], 2, addressOf('start16'), true);
  start.padTo(0x1000);
}
