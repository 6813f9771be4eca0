// Pictures of displays: taken at most once a second of each VM, however many look at it and at whatever sizes.
//
// Invariants:
// - Between two pictures that the hypervisor takes of one guest lies at least a second; who asks meanwhile gets the last.
// - A picture that nobody has asked for during some seconds is forgotten.
// - The same pixels have the same tag, so that a display that stands still is not sent twice.
import { createHash } from 'node:crypto';
import { type Guest } from '../../drivers/driver.ts';
import { encodePng, scaleDown, type Picture } from '../../lib/picture.ts';

/** A picture as it is sent. */
export interface Screenshot {
  png: Buffer;
  /** Stands for its pixels, in quotation marks: an entity tag of RFC 9110. */
  tag: string;
  /** When the display was first seen so. */
  since: Date;
}

export interface ScreenshotsOptions {
  /** Least time between two pictures of a guest, milliseconds. Default one second. */
  intervalMs?: number;
  /** On the clock of `performance`. */
  now?: () => number;
}

interface Taken {
  picture: Picture;
  hash: string;
  since: Date;
}

interface Entry {
  guest: Pick<Guest, 'screenshot'>;
  atMs: number;
  taken: Promise<Taken>;
  pngs: Map<number, Promise<Buffer>>;
  forget: NodeJS.Timeout;
}

const keptMs = 5000;
/** Sizes of one picture that are kept. */
const maxSizes = 8;

export class Screenshots {
  readonly #intervalMs: number;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();

  constructor(options: ScreenshotsOptions = {}) {
    this.#intervalMs = options.intervalMs ?? 1000;
    this.#now = options.now ?? (() => performance.now());
  }

  /** The display of a guest, `width` pixels wide where it is wider; null: as it is. */
  async take(id: string, guest: Pick<Guest, 'screenshot'>, width: number | null): Promise<Screenshot> {
    const entry = this.#entry(id, guest);
    const { picture, hash, since } = await entry.taken;
    const columns = width === null ? picture.width : Math.min(width, picture.width);
    let png = entry.pngs.get(columns);
    if (!png) {
      if (entry.pngs.size >= maxSizes) entry.pngs.clear();
      png = encodePng(scaleDown(picture, columns));
      entry.pngs.set(columns, png);
    }
    return { png: await png, tag: `"${hash}-${columns}"`, since };
  }

  #entry(id: string, guest: Pick<Guest, 'screenshot'>): Entry {
    const before = this.#entries.get(id);
    const isSame = before?.guest === guest;
    if (before && isSame && this.#now() - before.atMs < this.#intervalMs) return before;
    if (before) clearTimeout(before.forget);
    const forget = setTimeout(() => this.#entries.delete(id), keptMs).unref();
    const taken = takePicture(guest, isSame ? before.taken : null);
    const entry: Entry = { guest, atMs: this.#now(), taken, pngs: new Map(), forget };
    this.#entries.set(id, entry);
    // One that failed says nothing about the next; the interval holds for it too.
    taken.catch(() => {});
    return entry;
  }
}

async function takePicture(guest: Pick<Guest, 'screenshot'>, before: Promise<Taken> | null): Promise<Taken> {
  const earlier = await before?.catch(() => null);
  const picture = await guest.screenshot();
  const hash = createHash('sha256')
    .update(`${picture.width} ${picture.height} `)
    .update(picture.rgb)
    .digest('base64url')
    .slice(0, 22);
  return { picture, hash, since: earlier?.hash === hash ? earlier.since : new Date() };
}
