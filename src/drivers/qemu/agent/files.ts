// Copies files into and out of a guest through its agent, in pieces, so that memory stays bounded whatever their size.
import type { AgentClient } from './client.ts';
import { AgentError } from './errors.ts';

/** What one command carries. Base64 makes a third more of it, which stays far below the limits of agent and channel. */
export const CHUNK_BYTES = 512 * 1024;
const CHUNK_TIMEOUT_MS = 30_000;
const CLOSE_TIMEOUT_MS = 5000;

export interface CopyOptions {
  /** Ends the copy; what was written so far stays in the guest. */
  signal?: AbortSignal;
  /** The longest the whole copy may take, in milliseconds. Default: no limit, but each piece has 30 s. */
  timeoutMs?: number;
  /** Called after every piece. `bytesTotal` is null where the size is not known. */
  onProgress?: (bytesDone: number, bytesTotal: number | null) => void;
}

/** The content of a file in the guest. The file is open there while this is iterated. Throws {@link AgentError}. */
export async function* readGuestFile(
  agent: AgentClient,
  path: string,
  options: CopyOptions = {},
): AsyncGenerator<Buffer, void, void> {
  const { signal, onProgress } = options;
  const budget = budgetOf('guest-file-read', options);
  const handle = await agent.call('guest-file-open', { path, mode: 'r' }, { signal, timeoutMs: budget() });
  try {
    const bytesTotal = onProgress ? await sizeOf(agent, handle, budget(), signal) : null;
    let bytesDone = 0;
    for (;;) {
      const answer = await agent.call(
        'guest-file-read',
        { handle, count: CHUNK_BYTES },
        { signal, timeoutMs: budget() },
      );
      const chunk = Buffer.from(answer['buf-b64'] ?? '', 'base64');
      if (chunk.length !== answer.count) {
        const detail = `the guest agent announced ${answer.count} bytes and sent ${chunk.length}`;
        throw new AgentError('protocol', 'guest-file-read', detail);
      }
      bytesDone += chunk.length;
      if (chunk.length > 0) {
        onProgress?.(bytesDone, bytesTotal);
        yield chunk;
      }
      // On Windows the end shows as an empty answer, elsewhere already with the last bytes.
      if (answer.eof || chunk.length === 0) return;
    }
  } finally {
    await closeQuietly(agent, handle);
  }
}

/**
 * Writes a file in the guest, replacing what it contained; an interrupted copy leaves the beginning. Resolves to the
 * number of bytes written, when the guest has taken all of them. Throws {@link AgentError}.
 */
export async function writeGuestFile(
  agent: AgentClient,
  path: string,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: CopyOptions & { bytesTotal?: number } = {},
): Promise<number> {
  const { signal, onProgress, bytesTotal = null } = options;
  const budget = budgetOf('guest-file-write', options);
  const handle = await agent.call('guest-file-open', { path, mode: 'w' }, { signal, timeoutMs: budget() });
  let isClosed = false;
  try {
    let bytesDone = 0;
    for await (const piece of content) {
      for (let start = 0; start < piece.length;) {
        const part = Buffer.from(piece.buffer, piece.byteOffset + start, Math.min(CHUNK_BYTES, piece.length - start));
        const { count } = await agent.call(
          'guest-file-write',
          { handle, 'buf-b64': part.toString('base64') },
          { signal, timeoutMs: budget() },
        );
        // fwrite(3) in the guest may take less than it was given; it never takes nothing without an error.
        if (count < 1 || count > part.length) {
          throw new AgentError('protocol', 'guest-file-write', `it took ${count} of ${part.length} bytes`);
        }
        start += count;
        bytesDone += count;
        onProgress?.(bytesDone, bytesTotal);
      }
    }
    // A full file system shows at the latest here: the agent buffers what it writes.
    await agent.call('guest-file-flush', { handle }, { signal, timeoutMs: budget() });
    isClosed = true;
    await agent.call('guest-file-close', { handle }, { signal, timeoutMs: budget() });
    return bytesDone;
  } finally {
    if (!isClosed) await closeQuietly(agent, handle);
  }
}

/** Closes a file whose copy ended some way; the way it ended is what matters to the caller. */
export async function closeQuietly(agent: AgentClient, handle: number): Promise<void> {
  await agent.call('guest-file-close', { handle }, { timeoutMs: CLOSE_TIMEOUT_MS }).catch(() => {});
}

async function sizeOf(
  agent: AgentClient,
  handle: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<number | null> {
  try {
    const { position } = await agent.call(
      'guest-file-seek',
      { handle, offset: 0, whence: 'end' },
      { signal, timeoutMs },
    );
    await agent.call('guest-file-seek', { handle, offset: 0, whence: 'set' }, { signal, timeoutMs });
    return position;
  } catch (error) {
    // A pipe or a device has no size, and no position that the failed seek could have changed.
    if (error instanceof AgentError && (error.reason === 'refused' || error.reason === 'missing')) return null;
    throw error;
  }
}

/** What one command may take: its own limit, or what is left of the whole copy's. */
function budgetOf(command: string, { timeoutMs }: CopyOptions): () => number {
  if (timeoutMs === undefined) return () => CHUNK_TIMEOUT_MS;
  const deadline = performance.now() + timeoutMs;
  return () => {
    const leftMs = deadline - performance.now();
    if (leftMs <= 0) throw new AgentError('timeout', command, `the copy took longer than ${timeoutMs} ms`);
    return Math.min(CHUNK_TIMEOUT_MS, leftMs);
  };
}
