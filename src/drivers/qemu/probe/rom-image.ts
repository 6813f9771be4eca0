// The image of a ROM: its 64-bit part, which is copied to RAM, and the start that leads there.
import { type Assembler as Code, Assembler, formatListing } from './assembler.ts';
import { CODE, ROM_ADDRESS, ROM_BYTES, START_OFFSET } from './rom-layout.ts';
import { emitStart } from './rom-start.ts';

/** A built ROM. */
export interface ProbeRom {
  readonly bytes: Uint8Array;
  /** Address, bytes and instruction of every line; comments say what happens. */
  readonly listing: string;
}

/** The ROM of a program that is entered at its label `entry64`. */
export function romImage(code: Code): ProbeRom {
  const program = code.assemble();
  const start = new Assembler(ROM_ADDRESS + START_OFFSET);
  emitStart(start, CODE + (program.labels.get('entry64') ?? 0), program.bytes.length);
  const head = start.assemble();
  const bytes = new Uint8Array(ROM_BYTES);
  bytes.set(program.bytes, 0);
  bytes.set(head.bytes, START_OFFSET);
  const listing = `; 64-bit part, copied from ROM offset 0 to RAM at 0x${CODE.toString(16)}
${formatListing(program.listing, CODE)}
; start, in the ROM
${formatListing(head.listing, ROM_ADDRESS + START_OFFSET)}`;
  return { bytes, listing };
}
