// Where facts about the machine's hardware are read: files of the kernel, CPUID leaves and model-specific registers. One
// small interface, so that the parsers run over recorded machines too. Promises: what isn't there or may not be read is
// null or empty, never an error. Sources: the kernel's cpuid(4) and msr(4) devices (arch/x86/kernel/cpuid.c, msr.c).
import { closeSync, openSync, readFileSync, readSync, readdirSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

/** The four registers that CPUID answers with, each 32 bits without a sign. */
export interface CpuidRegisters {
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** What the parsers of this folder read from. */
export interface HardwareSource {
  /** A file's text without white space at its ends; null: it is not there, or may not be read. */
  text(path: string): string | null;
  /** A file's bytes; null: it is not there, or may not be read. */
  bytes(path: string): Uint8Array | null;
  /** The names in a folder, sorted; empty where there is none. */
  list(path: string): string[];
  /** The last part of what a symbolic link points to; null: there is no such link. */
  link(path: string): string | null;
  /** A CPUID leaf of the first processor; null: it can't be read, or the processor has no such leaf. */
  cpuid(leaf: number, subleaf?: number): CpuidRegisters | null;
  /** A model-specific register of the first processor, 64 bits; null: it can't be read. */
  msr(index: number): bigint | null;
  /** Why a path can't be opened for reading and writing, as the kernel's error code; null: it can. */
  openProblem(path: string): string | null;
}

/** This machine. */
export function thisMachine(): HardwareSource {
  const attempt = <T>(read: () => T): T | null => {
    try {
      return read();
    } catch {
      return null;
    }
  };
  const source: HardwareSource = {
    text: (path) => attempt(() => readFileSync(path, 'utf8').trim()),
    bytes: (path) => attempt(() => readFileSync(path)),
    list: (path) => attempt(() => readdirSync(path).toSorted()) ?? [],
    link: (path) => attempt(() => basename(readlinkSync(path))),
    cpuid: (leaf, subleaf = 0) => {
      // The processor answers for a leaf it doesn't have with that of another.
      const base = leaf >= 0x8000_0000 ? 0x8000_0000 : 0;
      const highest = attempt(() => readCpuid(base, 0));
      return highest && leaf <= highest.eax ? attempt(() => readCpuid(leaf, subleaf)) : null;
    },
    msr: (index) => attempt(() => readAt('/dev/cpu/0/msr', BigInt(index), 8).readBigUInt64LE()),
    openProblem: (path) => {
      try {
        closeSync(openSync(path, 'r+'));
        return null;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? 'EIO';
      }
    },
  };
  return source;
}

function readCpuid(leaf: number, subleaf: number): CpuidRegisters {
  const bytes = readAt('/dev/cpu/0/cpuid', BigInt(leaf) | (BigInt(subleaf) << 32n), 16);
  const [eax, ebx, ecx, edx] = [0, 4, 8, 12].map((offset) => bytes.readUInt32LE(offset)) as [
    number,
    number,
    number,
    number,
  ];
  return { eax, ebx, ecx, edx };
}

function readAt(path: string, position: bigint, length: number): Buffer {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(length);
    if (readSync(file, bytes, 0, length, position) !== length) throw new Error(`${path} ended early`);
    return bytes;
  } finally {
    closeSync(file);
  }
}
