// Opens a unix socket with a deadline, and says in one word why it could not. All of a VM's channels (QMP, guest agent,
// serial console) are unix sockets on which QEMU listens and serves one client at a time.
import { createConnection, type Socket } from 'node:net';

/**
 * `missing`: no such socket file, or no permission. `refused`: the file is there, nobody listens: QEMU has ended.
 * `timeout`: nobody accepted in time. `path`: the path can't be a socket address. `aborted`: the caller gave up.
 */
export type DialFailure = 'missing' | 'refused' | 'timeout' | 'path' | 'aborted' | 'other';

export class DialError extends Error {
  override name = 'DialError';
  readonly path: string;
  readonly reason: DialFailure;

  constructor(path: string, reason: DialFailure, detail: string, cause?: unknown) {
    super(`cannot connect to the socket ${path}: ${detail}`, { cause });
    this.path = path;
    this.reason = reason;
  }
}

/** `sun_path` of `struct sockaddr_un` has 108 bytes with the ending zero (unix(7)); a longer path would be cut. */
export const MAX_SOCKET_PATH_BYTES = 107;

const REASONS: Readonly<Record<string, [DialFailure, string]>> = {
  ENOENT: ['missing', 'it does not exist'],
  EACCES: ['missing', 'permission denied'],
  ECONNREFUSED: ['refused', 'nobody listens on it any more'],
};

/** Connects to the unix socket `path`. Rejects with {@link DialError}. */
export function dial(path: string, timeoutMs: number, signal?: AbortSignal): Promise<Socket> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    const detail = `the path has ${Buffer.byteLength(path)} bytes, a socket's may have ${MAX_SOCKET_PATH_BYTES}`;
    return Promise.reject(new DialError(path, 'path', detail));
  }
  if (signal?.aborted) return Promise.reject(new DialError(path, 'aborted', 'cancelled'));
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path });
    const settle = (): void => {
      clearTimeout(deadline);
      signal?.removeEventListener('abort', onAbort);
      socket.removeListener('error', onError);
      socket.removeListener('connect', onConnect);
    };
    const fail = (error: DialError): void => {
      settle();
      // A destroyed socket may still report an error; without a listener that would end the process.
      socket.on('error', () => {});
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(new DialError(path, 'aborted', 'cancelled'));
    const onError = (error: NodeJS.ErrnoException): void => {
      const [reason, detail] = REASONS[error.code ?? ''] ?? ['other', error.code ?? error.message];
      fail(new DialError(path, reason, detail, error));
    };
    const onConnect = (): void => {
      settle();
      resolve(socket);
    };
    const deadline = setTimeout(
      () => fail(new DialError(path, 'timeout', `nobody accepted within ${timeoutMs} ms`)),
      timeoutMs,
    );
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError);
    socket.once('connect', onConnect);
  });
}
