import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { checkHeader, detectFormat, IMAGE_FORMATS, type FileSample } from './format.ts';
import { ImageProblemError } from './problem.ts';

const sample = (head: Buffer, sizeBytes = head.length): FileSample => ({ head, tail: head.subarray(-512), sizeBytes });

function qcow2(change: (header: Buffer) => void = () => {}): FileSample {
  const head = Buffer.alloc(512);
  head.write('QFI\xfb', 0, 'latin1');
  head.writeUInt32BE(3, 4);
  change(head);
  return sample(head);
}

test('formats are told by their content', () => {
  const at = (offset: number, text: string, length = 40_000): FileSample => {
    const head = Buffer.alloc(length);
    head.write(text, offset, 'latin1');
    return sample(head);
  };
  assert.deepEqual(detectFormat(qcow2()), { kind: 'image', format: 'qcow2' });
  assert.deepEqual(detectFormat(at(0, 'vhdxfile')), { kind: 'image', format: 'vhdx' });
  assert.deepEqual(detectFormat(at(0x40, '\x7f\x10\xda\xbe')), { kind: 'image', format: 'vdi' });
  assert.deepEqual(detectFormat(at(0x8001, 'CD001')), { kind: 'image', format: 'iso' });
  assert.deepEqual(detectFormat(at(510, '\x55\xaa')), { kind: 'image', format: 'raw' });
  assert.deepEqual(detectFormat(at(39_488, 'conectix')), { kind: 'image', format: 'vpc' });
  assert.deepEqual(detectFormat(at(0, '\xfd7zXZ\0')), { kind: 'compressed', compression: 'xz' });
  assert.equal(detectFormat(at(0, '<html>')).kind, 'unknown');
  assert.equal(detectFormat(at(257, 'ustar')).kind, 'refused');
  assert.equal(detectFormat(sample(Buffer.alloc(0))).kind, 'unknown');
});

test('an ISO that is a disk too stays an ISO', () => {
  const head = Buffer.alloc(40_000);
  head.writeUInt16LE(0xaa55, 510);
  head.write('CD001', 0x8001, 'latin1');
  assert.deepEqual(detectFormat(sample(head)), { kind: 'image', format: 'iso' });
});

test('qcow2 headers that lead outside, are encrypted or unknown are refused', () => {
  checkHeader('qcow2', qcow2(), 'x');
  const cases: [string, (header: Buffer) => void][] = [
    ['backing-file', (header) => header.writeBigUInt64BE(1024n, 8)],
    ['backing-file', (header) => header.writeBigUInt64BE(4n, 72)],
    ['corrupt', (header) => header.writeBigUInt64BE(2n, 72)],
    ['format', (header) => header.writeBigUInt64BE(1n << 40n, 72)],
    ['format', (header) => header.writeUInt32BE(1, 32)],
    ['format', (header) => header.writeUInt32BE(1, 4)],
  ];
  for (const [problem, change] of cases) assert.throws(() => checkHeader('qcow2', qcow2(change), 'x'), { problem });
});

test('whatever a file holds, looking at it ends in an answer or a named problem', () => {
  const magics = ['QFI\xfb\0\0\0\x03', 'KDMV', 'vhdxfile', 'conectix', '', `${'\0'.repeat(64)}\x7f\x10\xda\xbe`];
  fc.assert(
    fc.property(
      fc.constantFrom(...magics),
      fc.uint8Array({ maxLength: 2048 }),
      fc.constantFrom(...IMAGE_FORMATS),
      (magic, rest, format) => {
        const it = sample(Buffer.concat([Buffer.from(magic, 'latin1'), rest]));
        detectFormat(it);
        try {
          checkHeader(format, it, 'x');
        } catch (error) {
          assert.ok(error instanceof ImageProblemError, String(error));
        }
      },
    ),
    { numRuns: 300 },
  );
});
