// Files that exist in memory only, have no name in any folder, and are gone when nobody has them open or mapped any more:
// memfd_create(2). For memory that several processes map. Node has no call to make them, so memory-file.pl does.
//
// Promise: once `seal` has answered, nobody can change the file, also who has it open for writing or makes a new mapping;
// while somebody has it mapped for writing, `seal` fails.
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { type Readable, type Writable } from 'node:stream';
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

/** Makes files and seals them, by the helper's process, which holds them open until all are closed. */
class MemoryFileMaker {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: string[] = [];
  #wake: () => void = () => {};
  #hasEnded = false;
  #open = 0;

  constructor(number: number, count: number) {
    this.#child = spawn('perl', [helperPath, '--create', String(number), String(count)], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    this.#child.stdin.on('error', () => {});
    let partial = '';
    this.#child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (partial + chunk).split('\n');
      partial = lines.pop() ?? '';
      this.#lines.push(...lines);
      this.#wake();
    });
    const onEnd = (): void => {
      this.#hasEnded = true;
      this.#wake();
    };
    this.#child.once('error', onEnd);
    this.#child.stdout.once('close', onEnd);
    // Whoever has nothing else to do doesn't wait for it: it ends with its input.
    this.#child.unref();
  }

  /** Opens the next file anew from where the helper has it. */
  async openNext(): Promise<{ descriptor: number; number: number }> {
    const number = await this.#answer(/^fd (\d+)$/);
    const descriptor = openSync(`/proc/${this.#child.pid}/fd/${number}`, 'r+');
    this.#open++;
    return { descriptor, number };
  }

  async seal(number: number): Promise<void> {
    this.#child.stdin.write(`seal ${number}\n`);
    await this.#answer(new RegExp(`^sealed (${number})$`));
  }

  closed(): void {
    if (--this.#open === 0) this.end();
  }

  end(): void {
    this.#child.stdin.end();
  }

  /** The number in the next line that matches. */
  async #answer(wanted: RegExp): Promise<number> {
    let isLate = false;
    const deadline = setTimeout(() => {
      isLate = true;
      this.#child.kill('SIGKILL');
    }, helperMs);
    try {
      for (;;) {
        const line = this.#lines.shift();
        const match = line === undefined ? null : wanted.exec(line);
        if (match) return Number(match[1]);
        if (line !== undefined || this.#hasEnded)
          throw new MemoryFileError(
            isLate ? 'the kernel took too long' : `the kernel refused it (${line ?? 'no answer'})`,
          );
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      clearTimeout(deadline);
    }
  }
}

/** A file in memory. This process holds it open until `close`. */
export class MemoryFile {
  /** Its descriptor, for reading and writing. */
  readonly descriptor: number;
  readonly #maker: MemoryFileMaker;
  readonly #number: number;

  /** Makes some. Only root, or the user of this process, can open them by their path. Seal one after the other. */
  static async create(count: number): Promise<MemoryFile[]> {
    const number = memfdNumbers[process.arch];
    if (number === undefined) throw new MemoryFileError(`memfd_create is not known for the processor ${process.arch}`);
    const maker = new MemoryFileMaker(number, count);
    const files: MemoryFile[] = [];
    try {
      while (files.length < count) files.push(new MemoryFile(maker, await maker.openNext()));
      return files;
    } catch (error) {
      for (const file of files) file.close();
      maker.end();
      throw error instanceof MemoryFileError ? error : new MemoryFileError(`it could not be opened: ${String(error)}`);
    }
  }

  private constructor(maker: MemoryFileMaker, opened: { descriptor: number; number: number }) {
    this.#maker = maker;
    this.descriptor = opened.descriptor;
    this.#number = opened.number;
  }

  /** By which other processes of the same user, and root, open it as long as it is not closed here. */
  get path(): string {
    return `/proc/${process.pid}/fd/${this.descriptor}`;
  }

  /** Nobody can change it from here on. Throws {@link MemoryFileError}, also while somebody has it mapped for writing. */
  async seal(): Promise<void> {
    try {
      await this.#maker.seal(this.#number);
    } catch (error) {
      const detail = error instanceof MemoryFileError ? error.message : String(error);
      throw new MemoryFileError(`it could not be sealed, as while somebody has it mapped for writing: ${detail}`);
    }
  }

  /** Lets go of it here. It exists on while others have it open or mapped. */
  close(): void {
    closeSync(this.descriptor);
    this.#maker.closed();
  }
}

/** Files in memory, of which the next ones are made before they are asked for: that takes longer than a guest may wait. */
export class SpareMemoryFiles {
  readonly #count: number;
  #next: Promise<MemoryFile[]> | null = null;
  #isClosed = false;

  /** `count`: that are taken at a time. */
  constructor(count: number) {
    this.#count = count;
  }

  /** Gives some that nobody else has; whoever takes them closes them. */
  take(): Promise<MemoryFile[]> {
    const files = this.#next ?? MemoryFile.create(this.#count);
    this.#next = null;
    return files;
  }

  /** Makes those that are taken next. What fails here fails again, and is told, when they are. */
  refill(): void {
    if (this.#next !== null || this.#isClosed) return;
    const files = MemoryFile.create(this.#count);
    this.#next = files;
    files.catch(() => {
      if (this.#next === files) this.#next = null;
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const files = await this.#next?.catch(() => []);
    this.#next = null;
    for (const file of files ?? []) file.close();
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
