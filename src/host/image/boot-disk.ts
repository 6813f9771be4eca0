// Makes a bootable disk of a root file system's folder without mounting anything or using a loop device: a GPT with
// GRUB for BIOS in its boot partition, GRUB for UEFI in the EFI partition, and the root file system last, so that it
// can grow. Each part is written straight into the image file.
//
//   0        1 MiB            2 MiB          66 MiB                              end - 1 MiB
//   │ MBR+GPT │ BIOS boot (14) │ ESP, FAT (15) │ root, ext4 (1) …………………………………… │ GPT copy
import { access, mkdir, open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run, type CommandOptions } from '../command.ts';
import { PARTITION_TYPE, SECTOR_BYTES, writeGpt, type GptPartition } from '../../lib/gpt.ts';
import { ImageProblemError } from './problem.ts';

const MIB = 1024 * 1024;
const BIOS_BOOT = { startBytes: MIB, sizeBytes: MIB } as const;
const EFI_SYSTEM = { startBytes: 2 * MIB, sizeBytes: 64 * MIB } as const;
const ROOT_START_BYTES = 66 * MIB;
const END_RESERVE_BYTES = MIB;

/** File system features that GRUB 2.06 can't read or does not know; new disks of mke2fs 1.47 would have them. */
const EXT4_FEATURES = '^metadata_csum_seed,^orphan_file';

const CORE_MODULES = [
  'part_gpt',
  'ext2',
  'search_fs_uuid',
  'normal',
  'configfile',
  'linux',
  'serial',
  'terminal',
  'echo',
  'test',
  'sleep',
  'gzio',
  'minicmd',
  'halt',
  'reboot',
  'ls',
  'cat',
];
const GRUB_FOLDERS = ['/usr/lib/grub', '/usr/share/grub2', '/usr/share/grub'];

export interface BootDiskOptions {
  /** The root file system; owners and modes are taken as they are. */
  rootFolder: string;
  /** The raw image to write; must not exist. */
  path: string;
  sizeBytes: number;
  /** UUIDs: of the root file system, which grub.cfg names too, and a seed for the partition table's. */
  rootUuid: string;
  diskUuid: string;
  /** A folder for intermediate files. */
  workFolder: string;
  signal?: AbortSignal;
}

/** Writes the disk. Throws {@link ImageProblemError}, or the failure of a program it calls. */
export async function writeBootDisk(options: BootDiskOptions): Promise<void> {
  const { path, sizeBytes, signal } = options;
  const rootSizeBytes = sizeBytes - ROOT_START_BYTES - END_RESERVE_BYTES;
  const limits: CommandOptions = { timeoutMs: 600_000, signal };
  const early = join(options.workFolder, 'early.cfg');
  await mkdir(options.workFolder, { recursive: true });
  await writeFile(
    early,
    `search.fs_uuid ${options.rootUuid} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n`,
  );

  await writeFile(path, '', { flag: 'wx' });
  await truncate(path, sizeBytes);
  await writePartitionTable(options, rootSizeBytes);
  await run(
    [
      'mke2fs',
      '-q',
      '-F',
      '-t',
      'ext4',
      '-L',
      'root',
      '-U',
      options.rootUuid,
      '-m',
      '1',
      '-O',
      EXT4_FEATURES,
      '-E',
      `offset=${ROOT_START_BYTES},lazy_itable_init=0,lazy_journal_init=0,discard`,
      '-d',
      options.rootFolder,
      path,
      `${rootSizeBytes / 1024}k`,
    ],
    limits,
  );
  await writeEfiPartition(options, early, limits);
  await writeBiosLoader(options, early, limits);
}

async function writePartitionTable(options: BootDiskOptions, rootSizeBytes: number): Promise<void> {
  const { path, sizeBytes, diskUuid } = options;
  const id = (number: number): string => `${diskUuid.slice(0, -2)}${String(number).padStart(2, '0')}`;
  const partitions: GptPartition[] = [
    {
      number: 1,
      type: PARTITION_TYPE.linuxRootX86,
      id: id(1),
      name: 'root',
      startBytes: ROOT_START_BYTES,
      sizeBytes: rootSizeBytes,
    },
    { number: 14, type: PARTITION_TYPE.biosBoot, id: id(14), name: 'bios', ...BIOS_BOOT },
    { number: 15, type: PARTITION_TYPE.efiSystem, id: id(15), name: 'efi', ...EFI_SYSTEM },
  ];
  const { head, tail } = writeGpt(sizeBytes, diskUuid, partitions);
  const file = await open(path, 'r+');
  try {
    await file.write(head, 0, head.length, 0);
    await file.write(tail, 0, tail.length, sizeBytes - tail.length);
  } finally {
    await file.close();
  }
}

async function grubFolder(platform: string): Promise<string> {
  for (const folder of GRUB_FOLDERS) {
    const candidate = join(folder, platform);
    const isThere = await access(join(candidate, 'moddep.lst')).then(
      () => true,
      () => false,
    );
    if (isThere) return candidate;
  }
  throw new ImageProblemError(
    'missing-program',
    `GRUB's modules for ${platform} are not installed (Debian: grub-pc-bin and grub-efi-amd64-bin).`,
  );
}

async function makeGrubImage(
  platform: string,
  target: string,
  early: string,
  extra: string[],
  limits: CommandOptions,
): Promise<void> {
  const folder = await grubFolder(platform);
  await run(
    [
      'grub-mkimage',
      '-d',
      folder,
      '-O',
      platform,
      '-o',
      target,
      '-p',
      '/boot/grub',
      '-c',
      early,
      ...CORE_MODULES,
      ...extra,
    ],
    limits,
  );
}

/** A FAT file system with the loader at the place that firmware looks at without being told (UEFI specification, 3.5.1.1). */
async function writeEfiPartition(options: BootDiskOptions, early: string, limits: CommandOptions): Promise<void> {
  const loader = join(options.workFolder, 'bootx64.efi');
  await makeGrubImage('x86_64-efi', loader, early, ['efi_gop', 'fat', 'efifwsetup'], limits);
  const partition = `${options.path}@@${EFI_SYSTEM.startBytes}`;
  const serial = options.diskUuid.replaceAll('-', '').slice(0, 8);
  await run(
    ['mformat', '-i', partition, '-T', String(EFI_SYSTEM.sizeBytes / SECTOR_BYTES), '-N', serial, '-v', 'EFI', '::'],
    limits,
  );
  await run(['mmd', '-i', partition, '::/EFI', '::/EFI/BOOT'], limits);
  await run(['mcopy', '-i', partition, loader, '::/EFI/BOOT/BOOTX64.EFI'], limits);
}

/**
 * What grub-bios-setup does, without a device: GRUB's first sector into the MBR, pointing at its core image in the BIOS
 * boot partition, whose own first sector says where the rest is. Offsets: include/grub/i386/pc/boot.h of GRUB.
 */
async function writeBiosLoader(options: BootDiskOptions, early: string, limits: CommandOptions): Promise<void> {
  const corePath = join(options.workFolder, 'core.img');
  await makeGrubImage('i386-pc', corePath, early, ['biosdisk'], limits);
  const firstSector = BIOS_BOOT.startBytes / SECTOR_BYTES;
  const { size } = await stat(corePath);
  if (size > BIOS_BOOT.sizeBytes) {
    throw new ImageProblemError(
      'too-large',
      `GRUB's image of ${size} bytes does not fit its partition of ${BIOS_BOOT.sizeBytes}.`,
    );
  }
  const { mbrCode, core } = patchBiosLoader(
    await readFile(join(await grubFolder('i386-pc'), 'boot.img')),
    await readFile(corePath),
    firstSector,
  );
  const file = await open(options.path, 'r+');
  try {
    await file.write(mbrCode, 0, mbrCode.length, 0);
    await file.write(core, 0, core.length, BIOS_BOOT.startBytes);
  } finally {
    await file.close();
  }
}

const MBR_CODE_BYTES = 440;
const BOOT_KERNEL_SECTOR = 0x5c;
const BOOT_DRIVE_CHECK = 0x66;
const CORE_BLOCK_LIST = 0x1f4;

/** Tells GRUB's sectors where its core image lies: `firstSector` of the disk and those after it. */
export function patchBiosLoader(
  bootImage: Buffer,
  coreImage: Buffer,
  firstSector: number,
): { mbrCode: Buffer; core: Buffer } {
  const mbrCode = Buffer.from(bootImage.subarray(0, MBR_CODE_BYTES));
  mbrCode.writeBigUInt64LE(BigInt(firstSector), BOOT_KERNEL_SECTOR);
  // Two no-operations: some BIOSes give a wrong drive number, and the check for it is meant for floppy disks.
  mbrCode.writeUInt16LE(0x9090, BOOT_DRIVE_CHECK);
  const core = Buffer.from(coreImage);
  core.writeBigUInt64LE(BigInt(firstSector + 1), CORE_BLOCK_LIST);
  core.writeUInt16LE(Math.ceil(core.length / SECTOR_BYTES) - 1, CORE_BLOCK_LIST + 8);
  return { mbrCode, core };
}
