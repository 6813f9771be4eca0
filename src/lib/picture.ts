// Pictures in memory: read from PPM, made smaller, written as PNG. Only what a display needs: 8 bits of red, green and blue.
// PPM: https://netpbm.sourceforge.net/doc/ppm.html  PNG: https://www.w3.org/TR/png-3/
import { promisify } from 'node:util';
import { crc32, deflate } from 'node:zlib';

export interface Picture {
  width: number;
  height: number;
  /** Three bytes a pixel, row after row from the top. */
  rgb: Buffer;
}

/** What was to be a picture is none. */
export class PictureError extends Error {
  override name = 'PictureError';
}

/** Largest side; far beyond every display. */
const maxSide = 32_768;
const ppmHeader = /^P6\s+(\d{1,6})\s+(\d{1,6})\s+(\d{1,6})\s/;
const pngSignature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const deflated = promisify(deflate);

/** Reads a raw PPM with 8 bits a sample. Throws {@link PictureError}. The picture keeps the bytes that it was read from. */
export function readPpm(bytes: Buffer): Picture {
  const header = ppmHeader.exec(bytes.toString('latin1', 0, 64));
  if (!header) throw new PictureError('it does not begin as a raw PPM does');
  const [width, height, most] = [Number(header[1]), Number(header[2]), Number(header[3])];
  if (width < 1 || height < 1 || width > maxSide || height > maxSide)
    throw new PictureError(`it is said to be ${width}×${height}`);
  if (most !== 255) throw new PictureError(`its brightest sample is ${most}, not 255`);
  const rgb = bytes.subarray(header[0].length);
  if (rgb.length !== width * height * 3)
    throw new PictureError(`it has ${rgb.length} bytes of pixels instead of ${width * height * 3}`);
  return { width, height, rgb };
}

/** The picture in `width` columns, each pixel the mean of those it stands for. One that is not wider stays as it is. */
export function scaleDown(picture: Picture, width: number): Picture {
  if (picture.width <= width) return picture;
  const height = Math.max(1, Math.round((picture.height * width) / picture.width));
  const rgb = Buffer.alloc(width * height * 3);
  const columns = edges(picture.width, width);
  const rows = edges(picture.height, height);
  for (let row = 0; row < height; row++) {
    const [top, bottom] = [rows[row]!, rows[row + 1]!];
    for (let column = 0; column < width; column++) {
      const [left, right] = [columns[column]!, columns[column + 1]!];
      let [red, green, blue] = [0, 0, 0];
      for (let y = top; y < bottom; y++) {
        const end = (y * picture.width + right) * 3;
        for (let at = (y * picture.width + left) * 3; at < end; at += 3) {
          red += picture.rgb[at]!;
          green += picture.rgb[at + 1]!;
          blue += picture.rgb[at + 2]!;
        }
      }
      const pixels = (bottom - top) * (right - left);
      const at = (row * width + column) * 3;
      rgb[at] = red / pixels + 0.5;
      rgb[at + 1] = green / pixels + 0.5;
      rgb[at + 2] = blue / pixels + 0.5;
    }
  }
  return { width, height, rgb };
}

/** Where each of `parts` begins in `length`, and the end of the last; every part has at least one where there are as many. */
function edges(length: number, parts: number): number[] {
  return Array.from({ length: parts + 1 }, (_, part) =>
    part === parts ? length : Math.min(length - 1, Math.floor((part * length) / parts)),
  );
}

/** As a PNG: true colour, no interlace, no filter, which suits the flat areas of displays. */
export async function encodePng({ width, height, rgb }: Picture): Promise<Buffer> {
  const rowBytes = width * 3;
  const raw = Buffer.alloc((rowBytes + 1) * height);
  for (let row = 0; row < height; row++) rgb.copy(raw, row * (rowBytes + 1) + 1, row * rowBytes, (row + 1) * rowBytes);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  // In a thread of its own: a large display takes tens of milliseconds.
  const pixels = await deflated(raw, { level: 3 });
  return Buffer.concat([pngSignature, chunk('IHDR', header), chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))]);
}

function chunk(type: string, data: Buffer): Buffer {
  const bytes = Buffer.alloc(12 + data.length);
  bytes.writeUInt32BE(data.length, 0);
  bytes.write(type, 4, 'latin1');
  data.copy(bytes, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, 8 + data.length)), 8 + data.length);
  return bytes;
}
