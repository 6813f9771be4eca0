// Writes a stream to a file with holes where it is zero, and no further than a limit. A raw disk image is mostly zeros;
// a hostile one, decompressed, is endless.
import { open } from 'node:fs/promises';
import { ImageProblemError } from './problem.ts';

const BLOCK_BYTES = 64 * 1024;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

export interface SparseWriteOptions {
  maxBytes: number;
  /** How messages call what is written. */
  label: string;
  onBytes?: (bytesWritten: number) => void;
}

/** Writes all of `source` to a new file and makes it durable. Answers its length. */
export async function writeSparse(
  path: string,
  source: AsyncIterable<Uint8Array>,
  options: SparseWriteOptions,
): Promise<number> {
  const file = await open(path, 'wx', 0o600);
  try {
    let position = 0;
    for await (const chunk of source) {
      if (position + chunk.length > options.maxBytes) {
        throw new ImageProblemError(
          'too-large',
          `${options.label} is larger than the ${options.maxBytes} bytes that are allowed.`,
        );
      }
      const data = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
      for (let at = 0; at < data.length; at += BLOCK_BYTES) {
        const block = data.subarray(at, at + BLOCK_BYTES);
        const isZero = block.equals(ZERO_BLOCK.subarray(0, block.length));
        if (!isZero) await file.write(block, 0, block.length, position + at);
      }
      position += data.length;
      options.onBytes?.(position);
    }
    await file.truncate(position);
    await file.datasync();
    return position;
  } catch (error) {
    throw explainWrite(error, options.label);
  } finally {
    await file.close();
  }
}

/** A full disk said as such; any other failure as it is. */
export function explainWrite(error: unknown, label: string): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EFBIG') return error;
  return new ImageProblemError('no-space', `There is no space left for ${label}.`, { cause: error });
}
