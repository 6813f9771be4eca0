// A VNC viewer for tests: what a display is as large as, asking for another size, and what is on the clipboard.
// The protocol: https://github.com/rfbproto/rfbproto/blob/master/rfbproto.rst
import { once } from 'node:events';
import { type Duplex } from 'node:stream';
import { inflateSync } from 'node:zlib';

const deadlineMs = 60_000;
const encodings = { raw: 0, desktopSize: -223, extendedDesktopSize: -308, extendedClipboard: 0xc0a1e5ce | 0 };
const clipboard = { text: 1, capabilities: 1 << 24, request: 1 << 25, notify: 1 << 27, provide: 1 << 28 };

export class VncViewer {
  readonly #stream: Duplex;
  #buffer = Buffer.alloc(0);
  /** Size of the display, as it was told last. */
  size = { width: 0, height: 0 };
  /** Answers to wishes for another size: 0 done, 1 prohibited, 2 no resources, 3 not possible, 4 passed on to the guest. */
  readonly resizeAnswers: number[] = [];
  /** Whether the server knows the extended messages for sizes, and those for clipboards. */
  canResize = false;
  hasClipboard = false;
  /** Text that the guest offered, once it was asked for. */
  text: string | null = null;

  constructor(stream: Duplex) {
    this.#stream = stream;
  }

  /** Begins the conversation, without a password. */
  async begin(): Promise<void> {
    await this.#take(12);
    this.#stream.write('RFB 003.008\n');
    await this.#take((await this.#take(1))[0]!);
    this.#stream.write(Buffer.from([1]));
    await this.#take(4);
    this.#stream.write(Buffer.from([1]));
    const init = await this.#take(24);
    this.size = { width: init.readUInt16BE(0), height: init.readUInt16BE(2) };
    await this.#take(init.readUInt32BE(20));
    const wanted = Object.values(encodings);
    const message = Buffer.alloc(4 + 4 * wanted.length);
    message[0] = 2;
    message.writeUInt16BE(wanted.length, 2);
    wanted.forEach((encoding, index) => message.writeInt32BE(encoding, 4 + 4 * index));
    this.#stream.write(message);
    this.#askForUpdate(false);
  }

  resize(width: number, height: number): void {
    const message = Buffer.alloc(24);
    message[0] = 251;
    message[6] = 1;
    for (const at of [2, 16]) message.writeUInt16BE(width, at);
    for (const at of [4, 18]) message.writeUInt16BE(height, at);
    this.#stream.write(message);
  }

  /** Reads what comes until it is so. */
  async until(isSo: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    while (!isSo()) {
      if (performance.now() > deadline) throw new Error(`the server did not show ${what}`);
      await this.#message();
    }
  }

  async #message(): Promise<void> {
    const type = (await this.#take(1))[0]!;
    if (type === 0) await this.#update();
    else if (type === 3) await this.#cutText();
    else if (type !== 2) throw new Error(`the server sent a message of type ${type}`);
  }

  async #update(): Promise<void> {
    await this.#take(1);
    const count = (await this.#take(2)).readUInt16BE();
    for (let rectangle = 0; rectangle < count; rectangle++) {
      const head = await this.#take(12);
      const [width, height, encoding] = [head.readUInt16BE(4), head.readUInt16BE(6), head.readInt32BE(8)];
      if (encoding === encodings.raw) await this.#take(width * height * 4);
      else if (encoding === encodings.desktopSize) this.size = { width, height };
      else if (encoding === encodings.extendedDesktopSize) {
        const screens = (await this.#take(4))[0]!;
        await this.#take(16 * screens);
        this.canResize = true;
        const [reason, status] = [head.readUInt16BE(0), head.readUInt16BE(2)];
        if (reason === 1) this.resizeAnswers.push(status);
        else this.size = { width, height };
      }
    }
    this.#askForUpdate(true);
  }

  async #cutText(): Promise<void> {
    await this.#take(3);
    const length = (await this.#take(4)).readInt32BE();
    const data = Buffer.from(await this.#take(Math.abs(length)));
    if (length >= 0) return;
    const flags = data.readUInt32BE(0);
    if (flags & clipboard.capabilities) {
      this.hasClipboard = true;
      const all = clipboard.capabilities | clipboard.request | clipboard.notify | clipboard.provide | clipboard.text;
      const limit = Buffer.alloc(4);
      limit.writeUInt32BE(1 << 20);
      this.#sendClipboard(all, limit);
    } else if (flags & clipboard.notify && flags & clipboard.text) {
      this.#sendClipboard(clipboard.request | clipboard.text, Buffer.alloc(0));
    } else if (flags & clipboard.provide) {
      const told = inflateSync(data.subarray(4), { finishFlush: 2 });
      this.text = told.toString('utf8', 4, 4 + told.readUInt32BE(0)).replace(/\0$/, '');
    }
  }

  #sendClipboard(flags: number, data: Buffer): void {
    const head = Buffer.alloc(12);
    head[0] = 6;
    head.writeInt32BE(-(4 + data.length), 4);
    head.writeUInt32BE(flags >>> 0, 8);
    this.#stream.write(Buffer.concat([head, data]));
  }

  #askForUpdate(isIncremental: boolean): void {
    const message = Buffer.alloc(10);
    message[0] = 3;
    message[1] = isIncremental ? 1 : 0;
    message.writeUInt16BE(4096, 6);
    message.writeUInt16BE(4096, 8);
    this.#stream.write(message);
  }

  async #take(count: number): Promise<Buffer> {
    const signal = AbortSignal.timeout(deadlineMs);
    while (this.#buffer.length < count) {
      const chunk = this.#stream.read() as Buffer | null;
      if (chunk) this.#buffer = Buffer.concat([this.#buffer, chunk]);
      else await once(this.#stream, 'readable', { signal });
    }
    const taken = this.#buffer.subarray(0, count);
    this.#buffer = this.#buffer.subarray(count);
    return taken;
  }
}
