// The memory of a guest in files that stay, for any number of guests to go on from: the same two as for copies of a running
// one (fork.ts), but with names, on disk, and in force until they are removed.
//
//   memory    what QEMU wrote, mapped privately by every guest that goes on from it
//   devices   the stream that each of them loads
//
// Promises: when `saveMemoryFiles` has answered, both are on disk whole and nobody but root finds a way to them; when it fails,
// there are none. Files whose content is not what was saved are found out before a guest runs from them: damaged memory
// would be a guest that computes wrong, and a shortened file one that dies at any moment.
import { createHash } from 'node:crypto';
import { fstatSync } from 'node:fs';
import { chmod, mkdir, open, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { LodgeError } from '../../../api/errors.ts';
import { type VmPinned } from '../../../api/vm.ts';
import { readCpu } from '../../../host/cpu.ts';
import { makeDurable } from '../../../host/image/durable.ts';
import { type Guest, type SavedMemory } from '../../driver.ts';
import { readImage, unusable, type ForkParts, type IncomingMemory } from './fork.ts';
import { type Freeze } from './freeze.ts';
import { hasPage, type FrozenBlock } from './frozen-image.ts';

type State = SavedMemory['state'];

const pieceBytes = 2 ** 20;
const fileNames = { memory: 'memory', devices: 'devices' } as const;

function filesOf(directory: string): { memory: string; devices: string } {
  return { memory: join(directory, fileNames.memory), devices: join(directory, fileNames.devices) };
}

/** Saves a running guest, which runs on. */
export async function saveMemoryFiles(
  parts: Pick<ForkParts<Guest>, 'name' | 'freeze' | 'block'>,
  pinned: VmPinned,
  request: { directory: string; signal: AbortSignal; onStopped?: (() => Promise<void>) | undefined },
): Promise<{ memory: SavedMemory; pauseMs: number }> {
  const { directory, signal, onStopped } = request;
  const paths = filesOf(directory);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  let file: FileHandle | null = null;
  let freeze: Freeze | null = null;
  try {
    file = await open(paths.memory, 'wx+', 0o600);
    freeze = await parts.freeze({ path: paths.memory, signal, onStopped });
    const { main, pieces } = await readImage(parts.block, { path: paths.memory, descriptor: file.fd });
    const devices = await open(paths.devices, 'wx', 0o400);
    let devicesBytes = 0;
    let devicesSum = 0;
    try {
      for (const piece of pieces) {
        await devices.writeFile(piece);
        devicesBytes += piece.length;
        devicesSum = crc32(piece, devicesSum);
      }
      await devices.sync();
    } finally {
      await devices.close();
    }
    await file.sync();
    // A guest's process opens it anew by its descriptor, as its own user; nobody else has a way into the folder.
    await chmod(paths.memory, 0o444);
    await makeDurable(directory);
    const state: State = {
      block: main.name,
      blockBytes: main.size,
      pageBytes: main.pageSize,
      pagesOffset: main.pagesOffset,
      bitmapOffset: main.bitmapOffset,
      memoryBytes: fstatSync(file.fd).size,
      memorySum: await sumOfPages(file, main),
      devicesBytes,
      devicesSum,
      ...(await interfaceOf(pinned)),
    };
    return { memory: { directory, state }, pauseMs: freeze.pauseMs };
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw unusable(parts.name, error);
  } finally {
    await freeze?.settled;
    await file?.close();
  }
}

/** What a guest must find as it was: the hypervisor that wrote the devices' state, and the processor that it saw. */
async function interfaceOf({
  qemuVersion,
  accelerator,
}: Pick<VmPinned, 'qemuVersion' | 'accelerator'>): Promise<State> {
  return { qemuVersion, accelerator, processor: accelerator === 'kvm' ? await describeProcessor() : 'emulated' };
}

/** Model and features: a guest has found out what the processor can, and does not ask again. */
async function describeProcessor(): Promise<string> {
  const { model, flags } = await readCpu();
  const hash = createHash('sha256')
    .update([...flags].toSorted().join(' '))
    .digest('hex');
  return `${model} (${hash.slice(0, 8)})`;
}

/** Null: nothing speaks against it. */
export async function whyNotUsable({ state }: SavedMemory, qemuVersion: string): Promise<string | null> {
  if (state['qemuVersion'] !== qemuVersion)
    return `it was saved by QEMU ${state['qemuVersion']}, and this is QEMU ${qemuVersion}`;
  const { processor } = await interfaceOf({
    qemuVersion,
    accelerator: state['accelerator'] as VmPinned['accelerator'],
  });
  return state['processor'] === processor
    ? null
    : `it was saved with the processor ${state['processor']}, and this machine has ${processor}`;
}

/** Looks whether files are as they were saved. What was found whole once is not read again until it was changed. */
export class SavedMemoryFiles {
  /** What each file was when it was found whole, by its path. */
  readonly #whole = new Map<string, string>();

  /** Where QEMU finds them. Throws `image_invalid` with what is wrong. */
  async open({ directory, state }: SavedMemory): Promise<IncomingMemory> {
    const { memory, devices } = filesOf(directory);
    await this.#require(memory, Number(state['memoryBytes']), Number(state['memorySum']), (file) =>
      sumOfPages(file, {
        size: Number(state['blockBytes']),
        pageSize: Number(state['pageBytes']),
        pagesOffset: Number(state['pagesOffset']),
        bitmapOffset: Number(state['bitmapOffset']),
      }),
    );
    await this.#require(devices, Number(state['devicesBytes']), Number(state['devicesSum']), async (file) =>
      crc32(await file.readFile()),
    );
    return { block: String(state['block']), path: memory, offset: Number(state['pagesOffset']), streamPath: devices };
  }

  async #require(path: string, size: number, sum: number, read: (file: FileHandle) => Promise<number>): Promise<void> {
    const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
      throw damaged(
        error.code === 'ENOENT' ? `${path} is not there` : `${path} can’t be read: ${error.message}`,
        error,
      );
    });
    try {
      const stat = await file.stat({ bigint: true });
      if (Number(stat.size) !== size) throw damaged(`${path} has ${stat.size} bytes, and ${size} were saved`);
      const now = `${stat.dev} ${stat.ino} ${stat.mtimeNs} ${stat.ctimeNs}`;
      if (this.#whole.get(path) === now) return;
      const found = await read(file).catch((error: Error) => {
        throw damaged(`${path} can’t be read: ${error.message}`, error);
      });
      if (found !== sum) throw damaged(`${path} is not as it was saved`);
      this.#whole.set(path, now);
    } finally {
      await file.close();
    }
  }
}

function damaged(what: string, cause?: unknown): LodgeError {
  return new LodgeError('image_invalid', `The saved memory is damaged: ${what}.`, { cause });
}

/** Checksum of the pages that count, with the bitmap that says which do: the rest of the file is holes. */
async function sumOfPages(
  file: FileHandle,
  { size, pageSize, pagesOffset, bitmapOffset }: Omit<FrozenBlock, 'name'>,
): Promise<number> {
  const count = size / pageSize;
  const bitmap = await readWhole(file, bitmapOffset, Math.ceil(count / 8));
  let sum = crc32(bitmap);
  for (let page = 0; page < count;) {
    if (!hasPage(bitmap, page)) {
      page++;
      continue;
    }
    const first = page;
    while (page < count && hasPage(bitmap, page) && (page - first) * pageSize < pieceBytes) page++;
    sum = crc32(await readWhole(file, pagesOffset + first * pageSize, (page - first) * pageSize), sum);
  }
  return sum;
}

async function readWhole(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  for (let got = 0; got < length;) {
    const { bytesRead } = await file.read(buffer, got, length - got, offset + got);
    if (bytesRead === 0) throw new Error(`it ends at byte ${offset + got}`);
    got += bytesRead;
  }
  return buffer;
}
