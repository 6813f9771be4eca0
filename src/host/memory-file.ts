// Files that exist in memory only, have no name in any folder, and are gone when nobody has them open or mapped any more:
// memfd_create(2). For memory that several processes map. Node has no call to make them, so memory-file.pl does.
//
// Promise: once `seal` has answered, nobody can change the file, also who has it open for writing or makes a new mapping;
// while somebody has it mapped for writing, `seal` fails.
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CommandError, run } from './command.ts';

const helperPath = fileURLToPath(new URL('./memory-file.pl', import.meta.url));
/** arch/x86/entry/syscalls/syscall_64.tbl, and include/uapi/asm-generic/unistd.h for the others. */
const memfdNumbers: Readonly<Record<string, number>> = { x64: 319, arm64: 279, riscv64: 279, loong64: 279 };
const fallocateNumbers: Readonly<Record<string, number>> = { x64: 285, arm64: 47, riscv64: 47, loong64: 47 };
const helperMs = 10_000;
const punchMs = 120_000;

/** A file in memory could not be made or sealed. */
export class MemoryFileError extends Error {
  override name = 'MemoryFileError';
}

/** A file in memory. This process holds it open until `close`. */
export class MemoryFile {
  /** Its descriptor, for reading and writing. */
  readonly descriptor: number;

  /** Makes some. Only root, or the user of this process, can open them by their path. */
  static async create(count: number): Promise<MemoryFile[]> {
    const number = memfdNumbers[process.arch];
    if (number === undefined) throw new MemoryFileError(`memfd_create is not known for the processor ${process.arch}`);
    const child = spawn('perl', [helperPath, '--create', String(number), String(count)], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    child.stdin.on('error', () => {});
    const deadline = setTimeout(() => child.kill('SIGKILL'), helperMs);
    const files: MemoryFile[] = [];
    try {
      const numbers = await readNumbers(child.stdout, count);
      // Opened anew from where the helper has them; then the helper is not needed any more.
      for (const descriptor of numbers)
        files.push(new MemoryFile(openSync(`/proc/${child.pid}/fd/${descriptor}`, 'r+')));
      return files;
    } catch (error) {
      for (const file of files) file.close();
      throw error instanceof MemoryFileError ? error : new MemoryFileError(`it could not be opened: ${String(error)}`);
    } finally {
      clearTimeout(deadline);
      child.stdin.end();
    }
  }

  private constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /** By which other processes of the same user, and root, open it as long as it is not closed here. */
  get path(): string {
    return `/proc/${process.pid}/fd/${this.descriptor}`;
  }

  /** Nobody can change it from here on. Throws {@link MemoryFileError}, also while somebody has it mapped for writing. */
  async seal(): Promise<void> {
    try {
      await run(['perl', helperPath, '--seal', this.path], { timeoutMs: helperMs });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      throw new MemoryFileError('it could not be sealed: somebody has it mapped for writing, or the kernel can not');
    }
  }

  /** Lets go of it here. It exists on while others have it open or mapped. */
  close(): void {
    closeSync(this.descriptor);
  }
}

/** Pages of a file and the bitmap that says which of them count. Bytes. */
export interface BitmappedPages {
  bitmapOffset: number;
  pagesOffset: number;
  count: number;
  pageSize: number;
}

/**
 * Makes holes of all pages of a file that hold something though their bit in the file's own bitmap (lowest bit first) is
 * not set. Answers with how many there were. Throws {@link MemoryFileError}.
 */
export async function punchUnmarkedPages(path: string, pages: BitmappedPages): Promise<number> {
  const number = fallocateNumbers[process.arch];
  if (number === undefined) throw new MemoryFileError(`fallocate is not known for the processor ${process.arch}`);
  const { bitmapOffset, pagesOffset, count, pageSize } = pages;
  const numbers = [bitmapOffset, pagesOffset, count, pageSize].map(String);
  try {
    const { stdout } = await run(['perl', helperPath, '--punch', String(number), path, ...numbers], {
      timeoutMs: punchMs,
    });
    return Number(/^punched (\d+)$/m.exec(stdout)?.[1] ?? Number.NaN);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new MemoryFileError(`pages of ${path} could not be given back: ${error.message}`);
  }
}

function readNumbers(stream: NodeJS.ReadableStream, count: number): Promise<number[]> {
  return new Promise((resolve, reject) => {
    let text = '';
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      text += chunk;
      const numbers = [...text.matchAll(/^fd (\d+)\n/gm)].map((match) => Number(match[1]));
      if (numbers.length === count) resolve(numbers);
    });
    stream.on('close', () => reject(new MemoryFileError(`the kernel gave none: ${text.trim() || 'no answer'}`)));
  });
}
