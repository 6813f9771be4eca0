// Writes GUID partition tables (UEFI specification 2.10, chapter 5): the protective MBR with both copies of the table.
// Pure, and deterministic: the ids are the caller's.
import { crc32 } from 'node:zlib';

export const SECTOR_BYTES = 512;

/** Partition types that are used here. */
export const PARTITION_TYPE = {
  efiSystem: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
  /** Where GRUB's BIOS image lies; GRUB manual, "BIOS installation". */
  biosBoot: '21686148-6449-6e6f-744e-656564454649',
  /** Root file system of x86-64; Discoverable Partitions Specification. */
  linuxRootX86: '4f68bce3-e8cd-4db1-96e7-fbcaf984b709',
} as const;

export interface GptPartition {
  /** Its number, from 1: /dev/vda1. */
  number: number;
  type: string;
  id: string;
  /** At most 36 characters. */
  name: string;
  startBytes: number;
  sizeBytes: number;
}

const ENTRY_COUNT = 128;
const ENTRY_BYTES = 128;
const TABLE_SECTORS = (ENTRY_COUNT * ENTRY_BYTES) / SECTOR_BYTES;

/** Bytes at the beginning and the end of the disk that belong to the table. */
export const GPT_HEAD_BYTES = (2 + TABLE_SECTORS) * SECTOR_BYTES;
export const GPT_TAIL_BYTES = (1 + TABLE_SECTORS) * SECTOR_BYTES;

/** A GUID as it is stored: the first three groups little-endian, the rest as written. */
function guidBytes(text: string): Buffer {
  const digits = text.replaceAll('-', '');
  if (!/^[0-9a-f]{32}$/i.test(digits)) throw new RangeError(`${text} is not a GUID`);
  const bytes = Buffer.from(digits, 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}

function entryTable(partitions: readonly GptPartition[], diskBytes: number): Buffer {
  const table = Buffer.alloc(ENTRY_COUNT * ENTRY_BYTES);
  for (const partition of partitions) {
    const { startBytes, sizeBytes } = partition;
    const isAligned = startBytes % SECTOR_BYTES === 0 && sizeBytes % SECTOR_BYTES === 0 && sizeBytes > 0;
    if (!isAligned || startBytes < GPT_HEAD_BYTES || startBytes + sizeBytes > diskBytes - GPT_TAIL_BYTES) {
      throw new RangeError(
        `partition ${partition.number} (${startBytes}+${sizeBytes}) does not fit the disk of ${diskBytes} bytes`,
      );
    }
    const entry = table.subarray((partition.number - 1) * ENTRY_BYTES, partition.number * ENTRY_BYTES);
    guidBytes(partition.type).copy(entry, 0);
    guidBytes(partition.id).copy(entry, 16);
    entry.writeBigUInt64LE(BigInt(startBytes / SECTOR_BYTES), 32);
    entry.writeBigUInt64LE(BigInt((startBytes + sizeBytes) / SECTOR_BYTES - 1), 40);
    entry.write(partition.name.slice(0, 36), 56, 'utf16le');
  }
  return table;
}

function header(diskId: string, sectors: number, table: Buffer, isBackup: boolean): Buffer {
  const last = BigInt(sectors - 1);
  const block = Buffer.alloc(SECTOR_BYTES);
  block.write('EFI PART', 0, 'latin1');
  block.writeUInt32LE(0x00010000, 8);
  block.writeUInt32LE(92, 12);
  block.writeBigUInt64LE(isBackup ? last : 1n, 24);
  block.writeBigUInt64LE(isBackup ? 1n : last, 32);
  block.writeBigUInt64LE(BigInt(2 + TABLE_SECTORS), 40);
  block.writeBigUInt64LE(last - BigInt(TABLE_SECTORS) - 1n, 48);
  guidBytes(diskId).copy(block, 56);
  block.writeBigUInt64LE(isBackup ? last - BigInt(TABLE_SECTORS) : 2n, 72);
  block.writeUInt32LE(ENTRY_COUNT, 80);
  block.writeUInt32LE(ENTRY_BYTES, 84);
  block.writeUInt32LE(crc32(table), 88);
  block.writeUInt32LE(crc32(block.subarray(0, 92)), 16);
  return block;
}

/** One partition over the whole disk, of type EE, so that programs that know no GPT leave it alone. */
function protectiveMbr(sectors: number): Buffer {
  const block = Buffer.alloc(SECTOR_BYTES);
  block.set([0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff], 446);
  block.writeUInt32LE(1, 454);
  block.writeUInt32LE(Math.min(sectors - 1, 0xffffffff), 458);
  block.writeUInt16LE(0xaa55, 510);
  return block;
}

/** The bytes for the beginning and the end of a disk. Partitions must not overlap; that is the caller's to see to. */
export function writeGpt(
  diskBytes: number,
  diskId: string,
  partitions: readonly GptPartition[],
): { head: Buffer; tail: Buffer } {
  if (diskBytes % SECTOR_BYTES !== 0) throw new RangeError(`a disk of ${diskBytes} bytes has no whole sectors`);
  const sectors = diskBytes / SECTOR_BYTES;
  const table = entryTable(partitions, diskBytes);
  return {
    head: Buffer.concat([protectiveMbr(sectors), header(diskId, sectors, table, false), table]),
    tail: Buffer.concat([table, header(diskId, sectors, table, true)]),
  };
}
