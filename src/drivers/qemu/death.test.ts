import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deathMessage } from './death.ts';

const begun = "2026-01-02T03:04:05.678901Z qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID\n";

test('the last words are QEMU’s last line, without its time', () => {
  const log = `${begun}2026-01-02T03:04:06.000001Z qemu-system-x86_64: terminating on signal 15 from pid 77 (kill)\n\n`;
  assert.equal(
    deathMessage(log, null),
    'Its QEMU process ended unexpectedly. It last said: qemu-system-x86_64: terminating on signal 15 from pid 77 (kill)',
  );
});

test('a warning from the start is not taken for the cause', () => {
  assert.equal(deathMessage(begun, null), 'Its QEMU process ended unexpectedly, without a word.');
});

test('how it ended is told where it is known', () => {
  assert.match(deathMessage('', { code: null, signal: 'SIGSEGV' }), /was ended by SIGSEGV, without a word/);
  assert.match(deathMessage('boom\n', { code: 1, signal: null }), /with code 1\. It last said: boom/);
});
