// The other end of a unix socket, for tests: listens in a temporary folder, hands over what arrives line by line, and
// says what the test tells it to. Everything it waits for has a deadline, and it leaves nothing behind.
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { temporaryFolder } from './temporary.ts';

const DEADLINE_MS = 5000;

export class UnixPeer implements AsyncDisposable {
  readonly path: string;
  /** How many clients have connected so far. */
  connections = 0;
  /** Called for every client that connects. */
  onConnect: (socket: Socket) => void = () => {};
  /** Takes the lines that arrive; without it they wait for {@link nextLine}. */
  onLine: ((line: string) => void) | null = null;
  readonly #removeFolder: () => unknown;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #lines: string[] = [];
  #raw: Buffer[] = [];
  #wake: () => void = () => {};

  static async listen(onConnect?: (socket: Socket) => void): Promise<UnixPeer> {
    let removeFolder: () => unknown = () => {};
    const folder = await temporaryFolder({ after: (remove) => (removeFolder = remove as () => unknown) });
    const peer = new UnixPeer(folder, removeFolder);
    if (onConnect) peer.onConnect = onConnect;
    await peer.start();
    return peer;
  }

  private constructor(folder: string, removeFolder: () => unknown) {
    this.#removeFolder = removeFolder;
    this.path = join(folder, 'peer.sock');
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Listens again after {@link stop}. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.path, () => {
        this.#server.removeListener('error', reject);
        resolve();
      });
    });
  }

  /** Hangs up on everybody and listens no more. */
  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    this.hangUp();
    await closed;
  }

  /** Ends the connections; new ones are accepted. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Sends bytes to the client that connected last. */
  send(data: string | Uint8Array): void {
    [...this.#sockets].at(-1)?.write(data);
  }

  /** Sends a value as one line of JSON. */
  sendJson(value: unknown): void {
    this.send(`${JSON.stringify(value)}\r\n`);
  }

  /** The next line that arrived, without its newline. */
  async nextLine(): Promise<string> {
    await this.until(() => this.#lines.length > 0, 'a line');
    return this.#lines.shift() ?? '';
  }

  /** The next line that arrived, parsed, with bytes 0xFF before it taken off. */
  async nextJson(): Promise<Record<string, unknown>> {
    const line = (await this.nextLine()).replace(/^\u{ff}+/u, '');
    return JSON.parse(line) as Record<string, unknown>;
  }

  /** Lines that arrived and were not taken. */
  get pendingLines(): number {
    return this.#lines.length;
  }

  /** Every byte that arrived so far. */
  get received(): Buffer {
    return Buffer.concat(this.#raw);
  }

  get isConnected(): boolean {
    return this.#sockets.size > 0;
  }

  /** Waits until `condition` holds; it is looked at whenever something happens on the socket. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = AbortSignal.timeout(DEADLINE_MS);
    while (!condition()) {
      await new Promise<void>((resolve, reject) => {
        const onAbort = (): void => reject(new Error(`${what} did not come within ${DEADLINE_MS} ms`));
        if (deadline.aborted) onAbort();
        deadline.addEventListener('abort', onAbort, { once: true });
        this.#wake = () => {
          deadline.removeEventListener('abort', onAbort);
          resolve();
        };
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop().catch(() => {});
    await this.#removeFolder();
  }

  #accept(socket: Socket): void {
    this.connections++;
    this.#sockets.add(socket);
    let partial = '';
    socket.on('data', (chunk: Buffer) => {
      this.#raw.push(chunk);
      const lines = (partial + chunk.toString('latin1')).split('\n');
      partial = lines.pop() ?? '';
      if (this.onLine) lines.forEach((line) => this.onLine?.(line));
      else this.#lines.push(...lines);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      this.#wake();
    });
    this.onConnect(socket);
    this.#wake();
  }
}
