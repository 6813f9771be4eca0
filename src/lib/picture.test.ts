import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inflateSync } from 'node:zlib';
import * as fc from 'fast-check';
import { readPng } from '../../test/support/png.ts';
import { encodePng, PictureError, readPpm, scaleDown, type Picture } from './picture.ts';

const filled = (width: number, height: number, pixel: (x: number, y: number) => number[]): Picture => {
  const rgb = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) rgb.set(pixel(x, y), (y * width + x) * 3);
  return { width, height, rgb };
};

test('a PPM is read, and whatever is none is refused with the reason', () => {
  const picture = readPpm(Buffer.concat([Buffer.from('P6\n2 1\n255\n'), Buffer.from([1, 2, 3, 4, 5, 6])]));
  assert.deepEqual([picture.width, picture.height, [...picture.rgb]], [2, 1, [1, 2, 3, 4, 5, 6]]);
  const wrong: [string, RegExp][] = [
    ['', /does not begin/],
    ['P5\n1 1\n255\nxxx', /does not begin/],
    ['P6\n0 1\n255\n', /0×1/],
    ['P6\n99999 1\n255\n', /99999×1/],
    ['P6\n1 1\n65535\nxxxxxx', /65535/],
    ['P6\n1 1\n255\nxx', /2 bytes of pixels instead of 3/],
    ['P6\n1 1\n255\nxxxx', /4 bytes/],
  ];
  for (const [text, words] of wrong)
    assert.throws(
      () => readPpm(Buffer.from(text)),
      (error) => error instanceof PictureError && words.test(error.message),
      text,
    );
});

test('each pixel of a smaller picture is the mean of those it stands for', () => {
  const board = filled(4, 2, (x) => (x < 2 ? [0, 100, 200] : [x === 2 ? 0 : 255, 100, 200]));
  const small = scaleDown(board, 2);
  assert.deepEqual([small.width, small.height], [2, 1]);
  assert.deepEqual([...small.rgb], [0, 100, 200, 128, 100, 200]);
  assert.equal(scaleDown(board, 4), board);
  assert.equal(scaleDown(board, 9), board);
});

test('a picture of one colour keeps it at every size', () => {
  const sizes = fc.integer({ min: 1, max: 40 });
  fc.assert(
    fc.property(sizes, sizes, sizes, (width, height, to) => {
      const small = scaleDown(
        filled(width, height, () => [7, 77, 177]),
        to,
      );
      assert.equal(small.width, Math.min(width, to));
      assert.ok(small.height >= 1 && small.height <= height);
      for (let at = 0; at < small.rgb.length; at += 3)
        assert.deepEqual([...small.rgb.subarray(at, at + 3)], [7, 77, 177]);
    }),
  );
});

test('a PNG has the pixels of its picture', async () => {
  const picture = filled(5, 3, (x, y) => [x * 50, y * 80, 9]);
  const png = await encodePng(picture);
  assert.deepEqual(readPng(png), { width: 5, height: 3, colours: 15 });
  const data = png.subarray(png.indexOf('IDAT') + 4, png.indexOf('IEND') - 8);
  const rows = inflateSync(data);
  assert.deepEqual([...rows.subarray(16, 20)], [0, 0, 80, 9], 'the second row');
});
