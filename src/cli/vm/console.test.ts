import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ModeWatch, parseDetachKey, splitAtDetach, withoutTerminalAnswers } from './console.ts';

const bytes = (text: string): Uint8Array => Buffer.from(text, 'latin1');

test('detach keys are control characters, written in the usual ways', () => {
  assert.deepEqual(parseDetachKey('ctrl-]'), { byte: 0x1d, label: 'Ctrl-]' });
  assert.deepEqual(parseDetachKey('^A'), { byte: 1, label: 'Ctrl-A' });
  assert.deepEqual(parseDetachKey('Ctrl-^'), { byte: 0x1e, label: 'Ctrl-^' });
  for (const text of ['q', 'ctrl-', 'ctrl-m', 'ctrl-ab', '']) assert.throws(() => parseDetachKey(text), text);
});

test('what was typed before the detach key still reaches the guest', () => {
  const key = parseDetachKey('ctrl-]');
  assert.deepEqual(splitAtDetach(bytes('ls\r'), key), { forGuest: bytes('ls\r'), isDetached: false });
  const { forGuest, isDetached } = splitAtDetach(bytes('ls\u001dmore'), key);
  assert.deepEqual([Buffer.from(forGuest).toString(), isDetached], ['ls', true]);
});

test('answers of the terminal to replayed questions are dropped, keys are not', () => {
  const answers = bytes('\u001b[24;80R\u001b[?62;22c\u001b[>0;276;0cls\u001b[A');
  assert.equal(Buffer.from(withoutTerminalAnswers(answers)).toString(), 'ls\u001b[A');
});

test('modes that a guest left on are switched off, others are not touched', () => {
  const watch = new ModeWatch();
  watch.see(bytes('\u001b[?1049h\u001b[?25l\u001b[?20'));
  watch.see(bytes('04h text \u001b[?1000h\u001b[?1000l'));
  assert.equal(watch.reset(), '\u001b[0m\u001b[?1049l\u001b[?2004l\u001b[?25h');
  assert.equal(new ModeWatch().reset(), '\u001b[0m');
});
