import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { writeCpio, type CpioEntry } from './cpio.ts';

const entries: CpioEntry[] = [
  { path: 'etc', type: 'directory', mode: 0o755 },
  { path: 'etc/name', type: 'file', mode: 0o644, data: Buffer.from('tiny\n') },
  { path: 'init', type: 'symlink', target: '/bin/busybox' },
  { path: 'console', type: 'character-device', mode: 0o600, major: 5, minor: 1 },
  { path: 'empty', type: 'file', mode: 0o755, data: Buffer.alloc(0) },
];

test('an archive lists its entries with modes, sizes, devices and targets as cpio reads them', () => {
  const listing = execFileSync('cpio', ['-itvn', '--quiet'], { input: writeCpio(entries), encoding: 'utf8' });
  const lines = listing
    .trim()
    .split('\n')
    .map((line) => line.replaceAll(/\s+/g, ' '));
  assert.match(lines[0]!, /^drwxr-xr-x 2 0 0 0 .* etc$/);
  assert.match(lines[1]!, /^-rw-r--r-- 1 0 0 5 .* etc\/name$/);
  assert.match(lines[2]!, /^lrwxrwxrwx 1 0 0 12 .* init -> \/bin\/busybox$/);
  assert.match(lines[3]!, /^crw------- 1 0 0 5, 1 .* console$/);
  assert.match(lines[4]!, /^-rwxr-xr-x 1 0 0 0 .* empty$/);
  assert.equal(lines.length, 5);
});

test('the same entries give the same bytes, headers begin at multiples of four', () => {
  const archive = writeCpio(entries);
  assert.ok(archive.equals(writeCpio(entries)));
  for (let at = archive.indexOf('070701'); at >= 0; at = archive.indexOf('070701', at + 1)) assert.equal(at % 4, 0);
});

test('paths that would leave the archive are refused', () => {
  for (const path of ['/etc', '../etc', 'a/../../b', 'a\0b']) {
    assert.throws(() => writeCpio([{ path, type: 'directory', mode: 0o755 }]), RangeError);
  }
});
