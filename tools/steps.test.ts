import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Steps } from './steps.ts';

function record(isTTY: boolean): { write: (text: string) => void; isTTY: boolean; columns: number; text: string } {
  return {
    isTTY,
    columns: 40,
    text: '',
    write(text) {
      this.text += text;
    },
  };
}

test('without a terminal a step is two plain lines', async () => {
  const output = record(false);
  const value = await new Steps(output, {}).step(
    'building',
    () => Promise.resolve(7),
    (n) => `built ${n}`,
  );
  assert.equal(value, 7);
  assert.match(output.text, /^… building\n✔ built 7 {2}0\.\d s\n$/);
});

test('on a terminal the line is drawn over, cut to its width, and ends with the result', async () => {
  const output = record(true);
  await new Steps(output, {}).step('x'.repeat(100), () => Promise.resolve());
  const lines = output.text.split('\r\u001b[K').slice(1);
  assert.equal(lines.length, 2);
  assert.ok((lines[0] ?? '').length <= 39);
  assert.ok((lines[1] ?? '').endsWith('\n'));
});

test('in CI a terminal is treated as none', async () => {
  const output = record(true);
  await new Steps(output, { CI: 'true' }).step('building', () => Promise.resolve());
  assert.ok(!output.text.includes('\u001b'));
});

test('a failed step says so and passes the failure on', async () => {
  const output = record(false);
  const failure = new Error('no room');
  await assert.rejects(
    new Steps(output, {}).step('building', () => Promise.reject(failure)),
    failure,
  );
  assert.match(output.text, /✖ building/);
});
