// Reads what Lodge needs to know of 64-bit little-endian ELF files: the libraries a program asks for, its loader, and
// its notes (a kernel's PVH entry point is a note). Layout: System V ABI, chapters 4 and 5. Throws RangeError for
// anything that is not such a file; never reads outside the bytes it was given.

export interface ElfInfo {
  /** The program that loads it, e.g. /lib64/ld-linux-x86-64.so.2; null for libraries and static programs. */
  interpreter: string | null;
  /** Names of the libraries it asks for (DT_NEEDED), in their order. */
  neededLibraries: string[];
  notes: { owner: string; type: number; description: Buffer }[];
}

interface Segment {
  type: number;
  offset: number;
  address: number;
  size: number;
}

const SEGMENT = { load: 1, dynamic: 2, interpreter: 3, note: 4 } as const;
const DYNAMIC = { end: 0, needed: 1, stringTable: 5 } as const;

function readSegments(file: Buffer): Segment[] {
  const isElf64 = file.length >= 64 && file.readUInt32BE(0) === 0x7f454c46 && file[4] === 2 && file[5] === 1;
  if (!isElf64) throw new RangeError('not a 64-bit little-endian ELF file');
  const tableOffset = Number(file.readBigUInt64LE(32));
  const entrySize = file.readUInt16LE(54);
  const segments: Segment[] = [];
  for (let index = 0; index < file.readUInt16LE(56); index++) {
    const at = tableOffset + index * entrySize;
    segments.push({
      type: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 8)),
      address: Number(file.readBigUInt64LE(at + 16)),
      size: Number(file.readBigUInt64LE(at + 32)),
    });
  }
  return segments;
}

function readString(file: Buffer, offset: number): string {
  const end = file.indexOf(0, offset);
  if (offset < 0 || offset >= file.length || end < 0) throw new RangeError('ELF file: a string lies outside the file');
  return file.toString('utf8', offset, end);
}

function readNeeded(file: Buffer, segments: Segment[], dynamic: Segment): string[] {
  const offsets: number[] = [];
  let tableAddress: number | null = null;
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16) {
    const tag = Number(file.readBigInt64LE(at));
    const value = Number(file.readBigUInt64LE(at + 8));
    if (tag === DYNAMIC.end) break;
    if (tag === DYNAMIC.needed) offsets.push(value);
    if (tag === DYNAMIC.stringTable) tableAddress = value;
  }
  const address = tableAddress;
  if (offsets.length === 0 || address === null) return [];
  // The table's address is where it will be in memory; the segment that is loaded there tells where it is in the file.
  const home = segments.find((s) => s.type === SEGMENT.load && address >= s.address && address < s.address + s.size);
  if (!home) throw new RangeError('ELF file: the string table is in no segment');
  return offsets.map((offset) => readString(file, address - home.address + home.offset + offset));
}

function readNotes(file: Buffer, segment: Segment): ElfInfo['notes'] {
  const notes: ElfInfo['notes'] = [];
  const end = segment.offset + segment.size;
  const align = (value: number): number => Math.ceil(value / 4) * 4;
  for (let at = segment.offset; at + 12 <= end;) {
    const nameSize = file.readUInt32LE(at);
    const descriptionSize = file.readUInt32LE(at + 4);
    const descriptionAt = at + 12 + align(nameSize);
    notes.push({
      owner: file.toString('latin1', at + 12, at + 12 + Math.max(0, nameSize - 1)),
      type: file.readUInt32LE(at + 8),
      description: file.subarray(descriptionAt, descriptionAt + descriptionSize),
    });
    at = descriptionAt + align(descriptionSize);
  }
  return notes;
}

/** Reads an ELF file's loader, needed libraries and notes. */
export function readElf(bytes: Uint8Array): ElfInfo {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const segments = readSegments(file);
  const interpreter = segments.find((s) => s.type === SEGMENT.interpreter);
  const dynamic = segments.find((s) => s.type === SEGMENT.dynamic);
  return {
    interpreter: interpreter ? readString(file, interpreter.offset) : null,
    neededLibraries: dynamic ? readNeeded(file, segments, dynamic) : [],
    notes: segments.filter((s) => s.type === SEGMENT.note).flatMap((s) => readNotes(file, s)),
  };
}
