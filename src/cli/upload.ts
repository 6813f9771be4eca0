// Sends a file of this machine as the content of an image, with progress.
import { open, type FileHandle } from 'node:fs/promises';
import type { Session } from './connect/session.ts';
import { followTask, untilInterrupted } from './output/follow.ts';
import { describeBytes, ProgressBoard, RateMeter } from './output/progress.ts';
import { usageError } from './usage-error.ts';

export interface Upload {
  /** Sends it and waits until the node has taken it in. */
  send(session: Session, image: string): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Opens the file before anything is made, so that a wrong path makes nothing. */
export async function openUpload(path: string): Promise<Upload> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    throw usageError(`the file ${path} can not be read${code === 'ENOENT' ? ': there is none' : `: ${code}`}`, {
      hint: 'Give the path of an image file, or an address that begins with http:// or https://.',
      cause,
    });
  }
  const facts = await file.stat();
  if (!facts.isFile() && !facts.isBlockDevice()) {
    await file.close();
    throw usageError(`${path} is not a file`);
  }
  return {
    send: (session, image) => send(session, image, file, facts.isFile() ? facts.size : undefined),
    [Symbol.asyncDispose]: () => file.close(),
  };
}

async function send(session: Session, image: string, file: FileHandle, totalBytes: number | undefined): Promise<void> {
  const board = new ProgressBoard(session.terminal);
  const row = board.add(`upload image ${image}`);
  const meter = new RateMeter();
  let sentBytes = 0;
  let saidPercent = -10;
  const content = async function* (): AsyncGenerator<Uint8Array, void> {
    const buffer = { size: 1024 * 1024 };
    for (let position = 0; ;) {
      // A buffer of its own for each read: the one before may still be on its way.
      const { bytesRead, buffer: chunk } = await file.read(Buffer.allocUnsafe(buffer.size), 0, buffer.size, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      yield chunk.subarray(0, bytesRead);
      sentBytes += bytesRead;
      meter.note(sentBytes, Date.now());
      const percent = totalBytes === undefined ? 0 : (sentBytes / totalBytes) * 100;
      if (session.terminal.canRedraw || percent >= saidPercent + 10) {
        saidPercent = percent;
        board.update(row, { waitingFor: describeBytes(sentBytes, totalBytes, meter.bytesPerSecond) });
      }
    }
  };
  try {
    const task = await untilInterrupted(
      session,
      (signal) =>
        session.client.image.upload(
          { params: { image }, query: { project: session.project }, body: content() },
          { signal },
        ),
      () => [`The upload is broken off. Try again: lodge image upload ${image} FILE, or lodge image delete ${image}.`],
    );
    board.close();
    await followTask(session, task, `import image ${image}`);
    session.terminal.line(`Image ${image} is imported.`);
  } finally {
    board.close();
  }
}
