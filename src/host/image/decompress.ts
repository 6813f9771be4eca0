// Unpacks compressed images. The packed size says nothing about the unpacked one, so writing has a limit, and the
// program one on its memory.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { pipeline, type Readable } from 'node:stream';
import type { ImageCompression } from './format.ts';
import { ImageProblemError } from './problem.ts';
import { writeSparse } from './sparse-file.ts';

export interface DecompressOptions {
  maxBytes: number;
  label: string;
  /** Packed bytes read so far. */
  onBytesRead?: (bytes: number) => void;
  signal?: AbortSignal;
}

/** xz refuses streams that would need more memory than this; the strongest common setting needs 65 MiB. */
const XZ_MEMORY_LIMIT = '512MiB';

const PROGRAMS: Partial<Record<ImageCompression, readonly [string, ...string[]]>> = {
  xz: ['xz', '--decompress', '--stdout', `--memlimit-decompress=${XZ_MEMORY_LIMIT}`],
  bzip2: ['bzip2', '--decompress', '--stdout'],
};

/** Unpacks `source` to a new file `target`; after a failure there is no target. Answers the unpacked length. */
export async function decompressFile(
  source: string,
  compression: ImageCompression,
  target: string,
  options: DecompressOptions,
): Promise<number> {
  const input = createReadStream(source, { highWaterMark: 256 * 1024, signal: options.signal });
  let bytesRead = 0;
  input.on('data', (chunk) => {
    bytesRead += chunk.length;
    options.onBytesRead?.(bytesRead);
  });
  try {
    const program = PROGRAMS[compression];
    return program
      ? await throughProgram(program, input, target, options)
      : await writeSparse(target, throughZlib(compression, input), options);
  } catch (error) {
    await rm(target, { force: true });
    throw explain(error, options);
  } finally {
    input.destroy();
  }
}

function throughZlib(compression: ImageCompression, input: Readable): Readable {
  const transform = compression === 'gzip' ? createGunzip() : createZstdDecompress();
  // The callback's error reaches the reader through the transform, which pipeline destroys with it.
  return pipeline(input, transform, () => {});
}

async function throughProgram(
  [program, ...args]: readonly [string, ...string[]],
  input: Readable,
  target: string,
  options: DecompressOptions,
): Promise<number> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString('utf8')).slice(-2000)));
  const closed = once(child, 'close') as Promise<[number | null]>;
  closed.catch(() => {});
  // A program that ends early closes its input; its exit code tells why.
  pipeline(input, child.stdin, () => {});
  try {
    const length = await writeSparse(target, child.stdout, options);
    const [exitCode] = await closed;
    if (exitCode === 0 && !input.errored) return length;
    if (input.errored) throw input.errored;
    throw new ImageProblemError(
      /unexpected end|ends unexpectedly/i.test(said) ? 'truncated' : 'corrupt',
      describe(options, said),
    );
  } finally {
    child.kill('SIGKILL');
  }
}

const describe = (options: DecompressOptions, said: string): string =>
  `${options.label} can't be unpacked: ${said.trim().split('\n')[0] ?? ''}`;

function explain(error: unknown, options: DecompressOptions): unknown {
  if (error instanceof ImageProblemError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  if (options.signal?.aborted)
    return new ImageProblemError('aborted', `Unpacking ${options.label} was cancelled.`, { cause: error });
  if (code === 'ENOENT') {
    return new ImageProblemError(
      'missing-program',
      `The program that unpacks ${options.label} is not installed (Debian: xz-utils, bzip2).`,
      { cause: error },
    );
  }
  if (code === 'Z_BUF_ERROR' || /unexpected end/i.test(message)) {
    return new ImageProblemError('truncated', `${options.label} ends before its compressed data do.`, { cause: error });
  }
  if (code?.startsWith('Z_') || code?.startsWith('ZSTD_')) {
    return new ImageProblemError('corrupt', describe(options, message), { cause: error });
  }
  return error;
}
