import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newOf, panicIn } from './guest-facts.ts';

test('a panic is found on the console as the kernel words it', () => {
  const linux = [
    'VFS: Cannot open root device',
    '[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)',
    '[    1.3] CPU: 0 PID: 1',
    '[    1.4] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---',
  ].join('\r\n');
  assert.equal(panicIn(linux), 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)');
  assert.equal(panicIn('login: \r\npanic: page fault\r\ncpuid = 0\r\n'), 'panic: page fault');
  assert.equal(panicIn('no need to panic: all is well\r\n'), null);
});

test('what an earlier run has left on the console is not of this one', () => {
  const before = 'Kernel panic - not syncing: old\r\n';
  assert.equal(newOf(before, before), '');
  assert.equal(newOf(before, `${before}booting\r\n`), 'booting\r\n');
  assert.equal(newOf('', 'booting'), 'booting');
  assert.equal(newOf('a'.repeat(8192), 'quite another end'), 'quite another end');
});
