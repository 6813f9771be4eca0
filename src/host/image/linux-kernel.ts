// Takes apart a distribution's kernel: the uncompressed ELF inside a bzImage, which QEMU starts directly (PVH) and
// several times faster than the compressed one, and the modules that a small initramfs needs.
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { run } from '../command.ts';
import { readElf } from '../../lib/elf.ts';
import { ImageProblemError } from './problem.ts';

type Compression = 'gzip' | 'xz' | 'zstd' | 'lz4' | 'bzip2' | 'none';

const MAGICS: readonly [Compression, readonly number[]][] = [
  ['gzip', [0x1f, 0x8b, 0x08]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['none', [0x7f, 0x45, 0x4c, 0x46]],
];

/** Where the compressed kernel lies in a bzImage, from the image's own header (Documentation/arch/x86/boot.rst). */
export function locateKernelPayload(image: Buffer): { compression: Compression; start: number; end: number } {
  const corrupt = (why: string): ImageProblemError => new ImageProblemError('corrupt', `The kernel ${why}.`);
  if (image.length < 0x260 || image.toString('latin1', 0x202, 0x206) !== 'HdrS') throw corrupt('is not a bzImage');
  if (image.readUInt16LE(0x206) < 0x208)
    throw corrupt('speaks a boot protocol older than 2.08, which names no payload');
  const setupSectors = image[0x1f1] || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const end = start + image.readUInt32LE(0x24c);
  if (end > image.length || end <= start) throw corrupt('ends before its payload does');
  const found = MAGICS.find(([, magic]) => magic.every((byte, index) => image[start + index] === byte));
  if (!found) throw corrupt(`is compressed in a way not known here (${image.toString('hex', start, start + 6)})`);
  // All but gzip have the size of the plain kernel behind them, four bytes that the program need not see.
  return { compression: found[0], start, end: found[0] === 'gzip' || found[0] === 'none' ? end : end - 4 };
}

const DECOMPRESSORS: Record<Exclude<Compression, 'none'>, { program: string; extension: string }> = {
  gzip: { program: 'gzip', extension: 'gz' },
  xz: { program: 'xz', extension: 'xz' },
  zstd: { program: 'zstd', extension: 'zst' },
  lz4: { program: 'lz4', extension: 'lz4' },
  bzip2: { program: 'bzip2', extension: 'bz2' },
};

/** XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point by which QEMU's `-kernel` starts an ELF kernel (PVH). */
const PVH_NOTE_TYPE = 18;

/** Writes the uncompressed ELF kernel of a bzImage. Refuses a kernel that could not be started directly. */
export async function extractVmlinux(bzImagePath: string, outPath: string, signal?: AbortSignal): Promise<void> {
  const image = await readFile(bzImagePath);
  const { compression, start, end } = locateKernelPayload(image);
  if (compression === 'none') {
    await writeFile(outPath, image.subarray(start, end));
  } else {
    const { program, extension } = DECOMPRESSORS[compression];
    const packed = `${outPath}.${extension}`;
    await writeFile(packed, image.subarray(start, end));
    // lz4 writes to standard output unless it is told where.
    const args = program === 'lz4' ? [packed, outPath] : [packed];
    await run([program, '-dfq', ...args], { timeoutMs: 120_000, signal });
    await rm(packed, { force: true });
  }
  const kernel = await readFile(outPath);
  if (compression !== 'gzip' && compression !== 'none' && kernel.length !== image.readUInt32LE(end)) {
    throw new ImageProblemError(
      'corrupt',
      `The kernel in ${bzImagePath} unpacks to ${kernel.length} bytes, its header says ${image.readUInt32LE(end)}.`,
    );
  }
  const isPvh = readElf(kernel).notes.some((note) => note.owner === 'Xen' && note.type === PVH_NOTE_TYPE);
  if (!isPvh)
    throw new ImageProblemError('format', `The kernel in ${bzImagePath} has no PVH entry point (CONFIG_PVH).`);
}

export interface KernelModule {
  /** With underscores, as the kernel names it. */
  name: string;
  /** Relative to the kernel's module folder, uncompressed: kernel/drivers/net/virtio_net.ko. */
  path: string;
  data: Buffer;
  dependencies: string[];
  /** Patterns of the devices it drives, e.g. virtio:d00000001v*. */
  aliases: string[];
}

/** Reads what a module says of itself: `key=value` strings in its section .modinfo (include/linux/module.h). */
export function parseModuleInfo(data: Buffer): { dependencies: string[]; aliases: string[] } {
  const text = data.toString('latin1');
  const values = (key: string): string[] =>
    [...text.matchAll(new RegExp(`(?<=\\0)${key}=([\\x20-\\x7e]*)\\0`, 'g'))].map((match) => match[1]!);
  const normal = (name: string): string => name.trim().replaceAll('-', '_');
  const softBefore = values('softdep').flatMap((text) => /pre:([^:]*)(?:post:|$)/.exec(text)?.[1]?.split(/\s+/) ?? []);
  const hard = values('depends').flatMap((list) => list.split(','));
  return { dependencies: [...hard, ...softBefore].map(normal).filter(Boolean), aliases: values('alias') };
}

/**
 * The named modules of a kernel with all they depend on, dependencies first. Names that the kernel has built in are
 * left out; `optional` names may be missing too.
 */
export async function collectModules(
  moduleFolder: string,
  required: readonly string[],
  optional: readonly string[],
  signal?: AbortSignal,
): Promise<KernelModule[]> {
  const files = new Map<string, string>();
  for (const entry of await readdir(moduleFolder, { recursive: true })) {
    const match = /([^/]+)\.ko(?:\.(?:xz|zst|gz))?$/.exec(entry);
    if (match) files.set(match[1]!.replaceAll('-', '_'), join(moduleFolder, entry));
  }
  const builtIn = new Set(
    (await readFile(join(moduleFolder, 'modules.builtin'), 'utf8'))
      .split('\n')
      .map((line) => basename(line.trim(), '.ko').replaceAll('-', '_')),
  );
  const found = new Map<string, KernelModule>();
  const visiting = new Set<string>();
  const visit = async (name: string, isRequired: boolean): Promise<void> => {
    if (found.has(name) || visiting.has(name) || builtIn.has(name)) return;
    const file = files.get(name);
    if (!file) {
      if (isRequired) throw new ImageProblemError('packages', `The kernel in ${moduleFolder} has no module ${name}.`);
      return;
    }
    visiting.add(name);
    const plain = await decompressModule(file, signal);
    const data = await readFile(plain);
    const info = parseModuleInfo(data);
    for (const dependency of info.dependencies) await visit(dependency, false);
    found.set(name, { name, path: relative(moduleFolder, plain), data, ...info });
  };
  for (const name of required) await visit(name, true);
  for (const name of optional) await visit(name, false);
  return [...found.values()];
}

async function decompressModule(file: string, signal?: AbortSignal): Promise<string> {
  const extension = /\.ko\.(xz|zst|gz)$/.exec(file)?.[1];
  if (!extension) return file;
  const decompressor = Object.values(DECOMPRESSORS).find((candidate) => candidate.extension === extension)!;
  await run([decompressor.program, '-dfq', file], { timeoutMs: 30_000, signal });
  return file.slice(0, -extension.length - 1);
}

/** The files modules.dep and modules.alias for these modules (dependencies first), as modprobe reads them (modules.dep(5)). */
export function writeModuleIndexes(modules: readonly KernelModule[]): { dep: string; alias: string } {
  const closure = (module: KernelModule): Set<string> => {
    const names = new Set<string>();
    const visit = (name: string): void => {
      if (names.has(name)) return;
      names.add(name);
      modules.find((candidate) => candidate.name === name)?.dependencies.forEach(visit);
    };
    module.dependencies.forEach(visit);
    return names;
  };
  // A line names what a module needs, and modprobe loads it from the last to the first.
  const lastFirst = modules.toReversed();
  const dep = modules.map((module) => {
    const needed = closure(module);
    const paths = lastFirst.filter((candidate) => needed.has(candidate.name)).map((candidate) => candidate.path);
    return `${module.path}: ${paths.join(' ')}`.trim();
  });
  const alias = modules.flatMap((module) => module.aliases.map((pattern) => `alias ${pattern} ${module.name}`));
  return { dep: `${dep.join('\n')}\n`, alias: `${alias.join('\n')}\n` };
}
