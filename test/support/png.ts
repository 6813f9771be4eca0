// Reads a PNG as far as tests need it: whether it is a sound one, and its pixels.
// Format: https://www.w3.org/TR/png-3/
import { crc32, inflateSync } from 'node:zlib';

export interface Picture {
  width: number;
  height: number;
  /** How many different colours there are. */
  colours: number;
}

const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Reads an 8-bit RGB or RGBA picture; throws for what is no sound PNG. */
export function readPng(bytes: Uint8Array): Picture {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (!file.subarray(0, 8).equals(signature)) throw new Error('it does not begin as a PNG does');
  const data: Buffer[] = [];
  let header: Buffer | null = null;
  let hasEnd = false;
  for (let at = 8; at < file.length;) {
    const length = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    const body = file.subarray(at + 8, at + 8 + length);
    if (file.readUInt32BE(at + 8 + length) !== crc32(file.subarray(at + 4, at + 8 + length)))
      throw new Error(`the checksum of its ${type} is wrong`);
    if (type === 'IHDR') header = body;
    if (type === 'IDAT') data.push(body);
    if (type === 'IEND') hasEnd = true;
    at += 12 + length;
  }
  if (!header || !hasEnd) throw new Error('it is cut off');
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const channels = { 2: 3, 6: 4 }[header[9] ?? 0];
  if (header[8] !== 8 || channels === undefined) throw new Error('it is no 8-bit RGB or RGBA picture');
  const rows = unfilter(inflateSync(Buffer.concat(data)), width * channels, height, channels);
  const colours = new Set<number>();
  for (let at = 0; at < rows.length; at += channels) colours.add(rows.readUIntBE(at, 3));
  return { width, height, colours: colours.size };
}

/** Undoes the filter of each row (PNG, 9.2). */
function unfilter(raw: Buffer, rowBytes: number, height: number, channels: number): Buffer {
  if (raw.length !== (rowBytes + 1) * height) throw new Error('it has not as many pixels as it says');
  const rows = Buffer.alloc(rowBytes * height);
  for (let row = 0; row < height; row++) {
    const filter = raw[row * (rowBytes + 1)];
    for (let column = 0; column < rowBytes; column++) {
      const at = row * rowBytes + column;
      const left = column >= channels ? rows[at - channels]! : 0;
      const up = row > 0 ? rows[at - rowBytes]! : 0;
      const corner = row > 0 && column >= channels ? rows[at - rowBytes - channels]! : 0;
      const predicted = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter ?? 0];
      if (predicted === undefined) throw new Error(`it has a filter ${filter}`);
      rows[at] = raw[row * (rowBytes + 1) + 1 + column]! + predicted;
    }
  }
  return rows;
}

function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  const [toLeft, toUp, toCorner] = [left, up, corner].map((value) => Math.abs(estimate - value)) as [
    number,
    number,
    number,
  ];
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}
