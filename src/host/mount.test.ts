import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileSystemOf } from './mount.ts';

const mounts = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:23 / /tmp rw,nosuid shared:10 - tmpfs tmpfs rw,size=1g
31 22 8:17 / /srv/my\\040disks rw - xfs /dev/sdb1 rw
32 31 8:33 / /srv/my\\040disks rw master:1 - btrfs /dev/sdc1 rw`;

test('the longest mount point above a path counts, and the later of two on the same point', () => {
  assert.equal(fileSystemOf(mounts, '/var/lib/lodge'), 'ext4');
  assert.equal(fileSystemOf(mounts, '/'), 'ext4');
  assert.equal(fileSystemOf(mounts, '/tmp/lodge'), 'tmpfs');
  assert.equal(fileSystemOf(mounts, '/tmpfoo'), 'ext4');
  assert.equal(fileSystemOf(mounts, '/srv/my disks/a'), 'btrfs');
});

test('text that is none is no file system', () => {
  assert.equal(fileSystemOf('', '/'), null);
  assert.equal(fileSystemOf('garbage\n1 2 3', '/'), null);
});
