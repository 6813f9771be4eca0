// What a file is, from its own bytes, before any program that would follow what stands in it has seen it. An image is
// written by others: a header can name files of this machine (backing file, external data file, extents elsewhere),
// which a program that opens the image would read (CVE-2015-5162, CVE-2024-32498 and their kin). So the header is read
// here, and such images are refused; afterwards qemu-img is always told the format.
import { open, type FileHandle } from 'node:fs/promises';
import { ImageProblemError } from './problem.ts';

/** Formats that are taken. `vpc` is Microsoft's older VHD. */
export const IMAGE_FORMATS = ['qcow2', 'raw', 'vmdk', 'vdi', 'vhdx', 'vpc', 'iso'] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

export const COMPRESSIONS = ['gzip', 'xz', 'zstd', 'bzip2'] as const;
export type ImageCompression = (typeof COMPRESSIONS)[number];

export type DetectedFormat =
  | { kind: 'image'; format: ImageFormat }
  | { kind: 'compressed'; compression: ImageCompression }
  /** Known, and not taken; `name` is for people. */
  | { kind: 'refused'; name: string }
  /** Could be a raw disk or anything else. */
  | { kind: 'unknown' };

/** Beginning and end of a file, as much as is needed to tell its format. */
export interface FileSample {
  head: Buffer;
  tail: Buffer;
  sizeBytes: number;
}

const HEAD_BYTES = 128 * 1024;
const TAIL_BYTES = 512;
const ISO_DESCRIPTOR = 0x8000;

export async function readSample(path: string): Promise<FileSample> {
  const file = await open(path, 'r');
  try {
    const info = await file.stat();
    if (!info.isFile()) throw new ImageProblemError('format', `${path} is not a regular file.`);
    const head = await readAt(file, 0, Math.min(HEAD_BYTES, info.size));
    const tailAt = Math.max(0, info.size - TAIL_BYTES);
    return { head, tail: await readAt(file, tailAt, info.size - tailAt), sizeBytes: info.size };
  } finally {
    await file.close();
  }
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}

const startsWith = (bytes: Buffer, at: number, magic: string): boolean =>
  bytes.length >= at + magic.length && bytes.toString('latin1', at, at + magic.length) === magic;

const MAGICS: readonly [number, string, DetectedFormat][] = [
  [0, 'QFI\xfb', { kind: 'image', format: 'qcow2' }],
  [0, 'KDMV', { kind: 'image', format: 'vmdk' }],
  [0, 'vhdxfile', { kind: 'image', format: 'vhdx' }],
  [0, 'conectix', { kind: 'image', format: 'vpc' }],
  [0x40, '\x7f\x10\xda\xbe', { kind: 'image', format: 'vdi' }],
  [0, '\x1f\x8b', { kind: 'compressed', compression: 'gzip' }],
  [0, '\xfd7zXZ\0', { kind: 'compressed', compression: 'xz' }],
  [0, '\x28\xb5\x2f\xfd', { kind: 'compressed', compression: 'zstd' }],
  [0, 'BZh', { kind: 'compressed', compression: 'bzip2' }],
  [0, '# Disk DescriptorFile', { kind: 'refused', name: 'a VMDK descriptor, whose data are in other files' }],
  [0, 'COWD', { kind: 'refused', name: 'a VMDK of ESX 2' }],
  [0, 'QED\0', { kind: 'refused', name: 'a QED image' }],
  [0, 'WithoutFreeSpace', { kind: 'refused', name: 'a Parallels image' }],
  [0, 'WithouFreSpacExt', { kind: 'refused', name: 'a Parallels image' }],
  [0, 'LUKS\xba\xbe', { kind: 'refused', name: 'an encrypted LUKS volume' }],
  [0, 'OOOM', { kind: 'refused', name: 'a User Mode Linux COW file' }],
  [0, 'PK\x03\x04', { kind: 'refused', name: 'a ZIP archive: unpack it first' }],
  [0, '7z\xbc\xaf\x27\x1c', { kind: 'refused', name: 'a 7-Zip archive: unpack it first' }],
  [257, 'ustar', { kind: 'refused', name: 'a tar archive (an OVA is one): unpack it first' }],
];

/** Signs that a file without a format of its own holds a disk: partition table, file system, boot sector. */
function looksLikeRawDisk(head: Buffer): boolean {
  const hasBootSignature = head.length >= 512 && head.readUInt16LE(510) === 0xaa55;
  const hasExtSuperblock = head.length >= 1082 && head.readUInt16LE(1080) === 0xef53;
  return (
    hasBootSignature ||
    hasExtSuperblock ||
    startsWith(head, 512, 'EFI PART') ||
    startsWith(head, 0, 'XFSB') ||
    startsWith(head, 512, 'LABELONE') ||
    startsWith(head, 0x10040, '_BHRfS_M')
  );
}

/** Tells a file's format from its content alone. */
export function detectFormat(sample: FileSample): DetectedFormat {
  const { head, tail } = sample;
  for (const [at, magic, detected] of MAGICS) if (startsWith(head, at, magic)) return detected;
  // A hybrid ISO has a boot sector too; its volume descriptor decides.
  if (startsWith(head, ISO_DESCRIPTOR + 1, 'CD001')) return { kind: 'image', format: 'iso' };
  if (startsWith(tail, 0, 'conectix')) return { kind: 'image', format: 'vpc' };
  return looksLikeRawDisk(head) ? { kind: 'image', format: 'raw' } : { kind: 'unknown' };
}

/**
 * Refuses an image that names other files, claims what it is not, or ends too early, from its header alone.
 * Throws {@link ImageProblemError}.
 */
export function checkHeader(format: ImageFormat, sample: FileSample, label: string): void {
  try {
    HEADER_CHECKS[format](sample, label);
  } catch (error) {
    // A header that ends before its fields do.
    if (error instanceof RangeError) {
      throw new ImageProblemError('truncated', `${label} ends inside its own header.`, { cause: error });
    }
    throw error;
  }
}

const HEADER_CHECKS: Record<ImageFormat, (sample: FileSample, label: string) => void> = {
  qcow2: checkQcow2,
  vmdk: checkVmdk,
  vdi: checkVdi,
  vpc: checkVpc,
  raw: checkRaw,
  iso: checkIso,
  // A differencing VHDX says so in metadata far inside; QEMU refuses those itself and has no way to follow them.
  vhdx: () => {},
};

/** docs/interop/qcow2.rst of QEMU. */
function checkQcow2({ head }: FileSample, label: string): void {
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) {
    throw new ImageProblemError('format', `${label} is a qcow image of version ${version}; 2 and 3 are taken.`);
  }
  if (head.readBigUInt64BE(8) !== 0n) {
    throw new ImageProblemError(
      'backing-file',
      `${label} is an overlay on another file. Flatten it where it comes from: qemu-img convert -O qcow2 OVERLAY FLAT.`,
    );
  }
  if (head.readUInt32BE(32) !== 0) {
    throw new ImageProblemError('format', `${label} is encrypted. Import it decrypted.`);
  }
  const features = version === 3 ? head.readBigUInt64BE(72) : 0n;
  if (features & 2n) throw new ImageProblemError('corrupt', `${label} is marked corrupt by QEMU.`);
  if (features & 4n) {
    throw new ImageProblemError(
      'backing-file',
      `${label} keeps its data in another file. Flatten it with qemu-img convert.`,
    );
  }
  if (features & ~0b11111n) {
    throw new ImageProblemError(
      'format',
      `${label} uses qcow2 features that are not known here (bits ${features.toString(2)}).`,
    );
  }
}

/** "Virtual Disk Format 5.0" of VMware: the text descriptor inside says of which kind the image is. */
function checkVmdk({ head }: FileSample, label: string): void {
  const descriptorAt = Number(head.readBigUInt64LE(28)) * 512;
  const descriptorBytes = Number(head.readBigUInt64LE(36)) * 512;
  if (head.readBigUInt64LE(12) === 0n) {
    throw new ImageProblemError('backing-file', `${label} is a VMDK without data of its own.`);
  }
  // QEMU follows the descriptor, so one that lies beyond what was read here is not trusted.
  if (descriptorAt === 0 || descriptorAt + descriptorBytes > HEAD_BYTES) {
    throw new ImageProblemError(
      'format',
      `${label} is a VMDK without a descriptor at its beginning. Convert it with qemu-img first.`,
    );
  }
  const text = head.toString('latin1', descriptorAt, descriptorAt + descriptorBytes).replaceAll('\0', '');
  const createType = /^\s*createType\s*=\s*"([^"]*)"/im.exec(text)?.[1];
  if (createType !== 'monolithicSparse' && createType !== 'streamOptimized') {
    throw new ImageProblemError(
      'backing-file',
      `${label} is a VMDK of type ${createType ?? 'unknown'}; taken are monolithicSparse and streamOptimized, which are one file.`,
    );
  }
  const parent = /^\s*parentCID\s*=\s*([0-9a-f]+)/im.exec(text)?.[1];
  const hasParent =
    (parent !== undefined && parent.toLowerCase() !== 'ffffffff') || /^\s*parentFileNameHint/im.test(text);
  const extents = text.match(/^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+\S+/gim) ?? [];
  if (hasParent || extents.length > 1) {
    throw new ImageProblemError('backing-file', `${label} is a VMDK that needs other files beside it.`);
  }
}

function checkVdi({ head, sizeBytes }: FileSample, label: string): void {
  const imageType = head.readUInt32LE(0x4c);
  if (imageType !== 1 && imageType !== 2) {
    throw new ImageProblemError(
      'backing-file',
      `${label} is a VDI of type ${imageType} (undo or differencing), which needs its parent.`,
    );
  }
  // QEMU reads what lies beyond the end as zeros and calls the image sound, so a cut one is noticed only here.
  const neededBytes = head.readUInt32LE(0x158) + head.readUInt32LE(0x184) * head.readUInt32LE(0x178);
  if (neededBytes > sizeBytes) {
    throw new ImageProblemError('truncated', `${label} has ${sizeBytes} bytes where its header says ${neededBytes}.`);
  }
}

/** "Virtual Hard Disk Image Format Specification" of Microsoft: a footer at the end, dynamic disks also a copy in front. */
function checkVpc({ head, tail }: FileSample, label: string): void {
  if (!startsWith(tail, 0, 'conectix')) {
    throw new ImageProblemError('truncated', `${label} is a VHD without its footer: its end is missing.`);
  }
  const diskType = (startsWith(head, 0, 'conectix') ? head : tail).readUInt32BE(60);
  if (diskType !== 2 && diskType !== 3) {
    throw new ImageProblemError(
      'backing-file',
      `${label} is a VHD of type ${diskType} (differencing), which needs its parent.`,
    );
  }
}

/** A GPT names the block of its second copy, at the disk's end (UEFI specification, 5.3.2). */
function checkRaw({ head, sizeBytes }: FileSample, label: string): void {
  if (sizeBytes === 0) throw new ImageProblemError('truncated', `${label} is empty.`);
  if (!startsWith(head, 512, 'EFI PART')) return;
  const neededBytes = (head.readBigUInt64LE(512 + 32) + 1n) * 512n;
  if (neededBytes > BigInt(sizeBytes)) {
    throw new ImageProblemError(
      'truncated',
      `${label} has ${sizeBytes} bytes where its partition table says ${neededBytes}.`,
    );
  }
}

/** ECMA-119, 8.4: the number of 2048-byte blocks of the volume. */
function checkIso({ head, sizeBytes }: FileSample, label: string): void {
  const neededBytes = head.readUInt32LE(ISO_DESCRIPTOR + 80) * head.readUInt16LE(ISO_DESCRIPTOR + 128);
  if (neededBytes > sizeBytes) {
    throw new ImageProblemError(
      'truncated',
      `${label} has ${sizeBytes} bytes where its volume descriptor says ${neededBytes}.`,
    );
  }
}
