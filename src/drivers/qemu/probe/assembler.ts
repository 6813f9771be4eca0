// A tiny assembler for the probe ROM: instructions are written as calls, each of which yields its bytes and its line
// of the listing, labels are resolved at the end. It knows exactly the instruction forms that the ROM needs.
// Promises: bytes and listing come from the same call, so they can't disagree; an undefined or doubled label and a
// value that doesn't fit are errors. Encodings: Intel SDM volume 2 (opcode tables, chapter 2 for ModR/M and REX).

/** The 64-bit registers by number (SDM volume 2, "Addressing-Mode Encoding of ModR/M and SIB Bytes", with REX). */
const REGISTERS = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
];

/** Conditions by their number in Jcc (SDM volume 2, "Condition Test (tttn) Field"). */
const CONDITIONS = { b: 2, ae: 3, z: 4, nz: 5, be: 6, a: 7 } as const;

/** Two-operand arithmetic: the number is the opcode extension, and times 8 the opcode's base. */
const ARITHMETIC = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;

/** Instructions without operands. */
const PLAIN = {
  cpuid: [0x0f, 0xa2],
  rdtsc: [0x0f, 0x31],
  rdmsr: [0x0f, 0x32],
  wrmsr: [0x0f, 0x30],
  hlt: [0xf4],
  vmcall: [0x0f, 0x01, 0xc1],
  vmmcall: [0x0f, 0x01, 0xd9],
  cli: [0xfa],
  sti: [0xfb],
  cld: [0xfc],
  nop: [0x90],
  pause: [0xf3, 0x90],
  int3: [0xcc],
  ud2: [0x0f, 0x0b],
  ret: [0xc3],
  iretq: [0x48, 0xcf],
  syscall: [0x0f, 0x05],
  sysretq: [0x48, 0x0f, 0x07],
  'rep stosd': [0xf3, 0xab],
  'rep movsb': [0xf3, 0xa4],
  'ltr ax': [0x0f, 0x00, 0xd8],
  'out dx, al': [0xee],
  'in al, dx': [0xec],
} as const;

export type Register = (typeof REGISTERS)[number];
export type Condition = keyof typeof CONDITIONS;
export type Arithmetic = keyof typeof ARITHMETIC;
export type PlainInstruction = keyof typeof PLAIN;

/** A value that is known when all labels are: the address of a label plus a constant. */
export interface Address {
  readonly label: string;
  readonly plus: bigint;
}

/** The address of a label, plus the distance to where its page is also mapped. */
export function addressOf(label: string, plus: bigint = 0n): Address {
  return { label, plus };
}

/** One line of the listing. */
export interface ListingLine {
  /** Offset in the program. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** The instruction, a label ending in a colon, or a comment. */
  readonly text: string;
}

interface Fixup {
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly target: Address;
  /** Counted from the end of the field instead of being an address. */
  readonly isRelative: boolean;
}

function littleEndian(value: bigint, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Number((value >> BigInt(8 * index)) & 0xffn));
}

function hex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

/** A program being written. Code is laid out from `origin`; labels are addresses from there. */
export class Assembler {
  private readonly origin: number;
  private readonly bytes: number[] = [];
  private readonly lines: { offset: number; length: number; text: string }[] = [];
  private readonly labels = new Map<string, number>();
  private readonly fixups: Fixup[] = [];

  constructor(origin: number) {
    this.origin = origin;
  }

  /** The offset of the next byte. */
  get offset(): number {
    return this.bytes.length;
  }

  comment(text: string): void {
    this.lines.push({ offset: this.offset, length: 0, text: `; ${text}` });
  }

  label(name: string): void {
    if (this.labels.has(name)) throw new Error(`the label ${name} is defined twice`);
    this.labels.set(name, this.offset);
    this.lines.push({ offset: this.offset, length: 0, text: `${name}:` });
  }

  /** Bytes with their text: for data and for instructions of other modes than 64-bit. */
  raw(text: string, ...bytes: readonly number[]): void {
    this.lines.push({ offset: this.offset, length: bytes.length, text });
    this.bytes.push(...bytes);
  }

  /** Bytes that end in the address of a label (`isRelative`: its distance from their end). */
  rawTo(
    text: string,
    bytes: readonly number[],
    size: Fixup['size'],
    target: Address,
    isRelative: boolean = false,
  ): void {
    this.raw(text, ...bytes, ...littleEndian(0n, size));
    this.fixups.push({ offset: this.offset - size, size, target, isRelative });
  }

  /** Fills up to an offset. */
  padTo(offset: number, filler: number = 0): void {
    if (offset < this.offset)
      throw new Error(`the code is ${this.offset - offset} bytes too long for offset ${hex(offset)}`);
    const length = offset - this.offset;
    if (length > 0) this.raw(`times ${length} db ${hex(filler)}`, ...Array.from({ length }, () => filler));
  }

  plain(name: PlainInstruction): void {
    this.raw(name, ...PLAIN[name]);
  }

  /** mov r64, imm64 */
  movImm64(register: Register, value: bigint | Address): void {
    const number = this.register(register);
    const opcode = [0x48 | (number >> 3), 0xb8 | (number & 7)];
    if (typeof value === 'bigint') this.raw(`mov ${register}, ${hex(value)}`, ...opcode, ...littleEndian(value, 8));
    else this.rawTo(`mov ${register}, ${value.label}`, opcode, 8, value);
  }

  /** mov r32, imm32; the upper half becomes 0. The text names the 64-bit register, whose value it is. */
  movImm32(register: Register, value: number | Address): void {
    const number = this.register(register);
    const opcode = [...(number > 7 ? [0x41] : []), 0xb8 | (number & 7)];
    const name = this.register32(register);
    if (typeof value === 'number') {
      this.raw(`mov ${name}, ${hex(value)}`, ...opcode, ...littleEndian(BigInt(value), 4));
    } else {
      this.rawTo(`mov ${name}, ${value.label}`, opcode, 4, value);
    }
  }

  /** mov r64, r64 */
  mov(to: Register, from: Register): void {
    this.raw(`mov ${to}, ${from}`, ...this.registers(0x89, from, to));
  }

  /** mov r64, [base + displacement] */
  load(to: Register, base: Register, displacement: number = 0): void {
    this.raw(`mov ${to}, [${base}+${hex(displacement)}]`, ...this.memory(0x8b, to, base, displacement));
  }

  /** mov [base + displacement], r64 */
  store(base: Register, displacement: number, from: Register): void {
    this.raw(`mov [${base}+${hex(displacement)}], ${from}`, ...this.memory(0x89, from, base, displacement));
  }

  /** mov r32, [base + displacement]: for registers of devices, which must be read in 32 bits. */
  load32(to: Register, base: Register, displacement: number = 0): void {
    this.raw(
      `mov ${this.register32(to)}, [${base}+${hex(displacement)}]`,
      ...this.memory(0x8b, to, base, displacement, false),
    );
  }

  /** mov [base + displacement], r32 */
  store32(base: Register, displacement: number, from: Register): void {
    const text = `mov [${base}+${hex(displacement)}], ${this.register32(from)}`;
    this.raw(text, ...this.memory(0x89, from, base, displacement, false));
  }

  /** add, or, and, sub, xor, cmp of two 64-bit registers */
  arithmetic(name: Arithmetic, to: Register, from: Register): void {
    this.raw(`${name} ${to}, ${from}`, ...this.registers((ARITHMETIC[name] << 3) | 1, from, to));
  }

  /** add, or, and, sub, xor, cmp of a 64-bit register with a sign-extended 32-bit constant */
  arithmeticImm(name: Arithmetic, to: Register, value: number): void {
    const number = this.register(to);
    const modrm = 0xc0 | (ARITHMETIC[name] << 3) | (number & 7);
    this.raw(`${name} ${to}, ${hex(value)}`, 0x48 | (number >> 3), 0x81, modrm, ...littleEndian(BigInt(value), 4));
  }

  /** shl or shr of a 64-bit register */
  shift(name: 'shl' | 'shr', register: Register, count: number): void {
    const number = this.register(register);
    const extension = name === 'shl' ? 4 : 5;
    this.raw(
      `${name} ${register}, ${count}`,
      0x48 | (number >> 3),
      0xc1,
      0xc0 | (extension << 3) | (number & 7),
      count,
    );
  }

  /** inc or dec of a 64-bit register */
  step(name: 'inc' | 'dec', register: Register): void {
    const number = this.register(register);
    this.raw(`${name} ${register}`, 0x48 | (number >> 3), 0xff, 0xc0 | ((name === 'inc' ? 0 : 1) << 3) | (number & 7));
  }

  push(register: Register): void {
    const number = this.register(register);
    this.raw(`push ${register}`, ...(number > 7 ? [0x41] : []), 0x50 | (number & 7));
  }

  pop(register: Register): void {
    const number = this.register(register);
    this.raw(`pop ${register}`, ...(number > 7 ? [0x41] : []), 0x58 | (number & 7));
  }

  jump(label: string): void {
    this.rawTo(`jmp ${label}`, [0xe9], 4, addressOf(label), true);
  }

  jumpIf(condition: Condition, label: string): void {
    this.rawTo(`j${condition} ${label}`, [0x0f, 0x80 | CONDITIONS[condition]], 4, addressOf(label), true);
  }

  call(label: string): void {
    this.rawTo(`call ${label}`, [0xe8], 4, addressOf(label), true);
  }

  callRegister(register: Register): void {
    const number = this.register(register);
    this.raw(`call ${register}`, ...(number > 7 ? [0x41] : []), 0xff, 0xd0 | (number & 7));
  }

  /** mov r64, crN */
  readControl(to: Register, control: 0 | 2 | 3 | 4): void {
    this.raw(`mov ${to}, cr${control}`, ...this.control(0x20, to, control));
  }

  /** mov crN, r64 */
  writeControl(control: 0 | 3 | 4, from: Register): void {
    this.raw(`mov cr${control}, ${from}`, ...this.control(0x22, from, control));
  }

  /** invlpg [r64] */
  invalidatePage(base: Register): void {
    this.raw(`invlpg [${base}]`, 0x0f, 0x01, 0x38 | this.simpleBase(base));
  }

  /** lgdt [r64] */
  loadDescriptorTable(base: Register): void {
    this.raw(`lgdt [${base}]`, 0x0f, 0x01, 0x10 | this.simpleBase(base));
  }

  /** lidt [r64] */
  loadInterruptTable(base: Register): void {
    this.raw(`lidt [${base}]`, 0x0f, 0x01, 0x18 | this.simpleBase(base));
  }

  /** The finished bytes and their listing. Throws for a label that is nowhere, or too far. */
  assemble(): { bytes: Uint8Array; listing: ListingLine[]; labels: ReadonlyMap<string, number> } {
    const bytes = Uint8Array.from(this.bytes);
    for (const { offset, size, target, isRelative } of this.fixups) {
      const at = this.labels.get(target.label);
      if (at === undefined) throw new Error(`the label ${target.label} is not defined`);
      const value = target.plus + BigInt(isRelative ? at - (offset + size) : this.origin + at);
      const bits = BigInt(8 * size);
      const isFitting = isRelative ? BigInt.asIntN(Number(bits), value) === value : value >> bits === 0n;
      if (!isFitting)
        throw new Error(`${target.label} (${hex(value)}) does not fit into ${size} bytes at ${hex(offset)}`);
      bytes.set(littleEndian(value, size), offset);
    }
    const listing = this.lines.map(({ offset, length, text }) => ({
      offset,
      bytes: bytes.subarray(offset, offset + length),
      text,
    }));
    return { bytes, listing, labels: this.labels };
  }

  private register(name: Register): number {
    const number = REGISTERS.indexOf(name);
    if (number < 0) throw new Error(`${name} is not a 64-bit register`);
    return number;
  }

  private register32(name: Register): string {
    return this.register(name) < 8 ? `e${name.slice(1)}` : `${name}d`;
  }

  /** REX.W, opcode and ModR/M of a form with two registers. */
  private registers(opcode: number, reg: Register, rm: Register): number[] {
    const [regNumber, rmNumber] = [this.register(reg), this.register(rm)];
    return [0x48 | ((regNumber >> 3) << 2) | (rmNumber >> 3), opcode, 0xc0 | ((regNumber & 7) << 3) | (rmNumber & 7)];
  }

  /** REX, opcode, ModR/M with a 32-bit displacement. A base of rsp or r12 would need one more byte, so it is refused. */
  private memory(
    opcode: number,
    reg: Register,
    base: Register,
    displacement: number,
    isWide: boolean = true,
  ): number[] {
    const [regNumber, baseNumber] = [this.register(reg), this.register(base)];
    if ((baseNumber & 7) === 4) throw new Error(`${base} can't be a base register here`);
    const rex = 0x40 | (isWide ? 8 : 0) | ((regNumber >> 3) << 2) | (baseNumber >> 3);
    const modrm = 0x80 | ((regNumber & 7) << 3) | (baseNumber & 7);
    return [...(rex === 0x40 ? [] : [rex]), opcode, modrm, ...littleEndian(BigInt(displacement), 4)];
  }

  private control(opcode: number, register: Register, control: number): number[] {
    const number = this.register(register);
    return [...(number > 7 ? [0x41] : []), 0x0f, opcode, 0xc0 | (control << 3) | (number & 7)];
  }

  /** The number of a register that stands for [register] without further bytes. */
  private simpleBase(base: Register): number {
    const number = this.register(base);
    if (![0, 1, 2, 3, 6, 7].includes(number)) throw new Error(`${base} can't be a base register here`);
    return number;
  }
}

/** The listing as text: offset, bytes, instruction. */
export function formatListing(listing: readonly ListingLine[], origin: number): string {
  const lines = listing.map(({ offset, bytes, text }) => {
    if (bytes.length === 0) return text.startsWith(';') ? `                                        ${text}` : text;
    const shown = Array.from(bytes.subarray(0, 10), (byte) => byte.toString(16).padStart(2, '0')).join('');
    const address = (origin + offset).toString(16).padStart(8, '0');
    return `${address}  ${(shown + (bytes.length > 10 ? '..' : '')).padEnd(24)}    ${text}`;
  });
  return `${lines.join('\n')}\n`;
}
