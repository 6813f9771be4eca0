import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { Admission } from './admission.ts';

const limits = {
  request: { total: 3, perCaller: 2 },
  stream: { total: 1, perCaller: 1 },
  websocket: { total: 1, perCaller: 1 },
};
const isRateLimited = (error: unknown): boolean => error instanceof LodgeError && error.code === 'rate_limited';

test('more than the limit in all, or of one caller, is refused and names the limit', () => {
  const admission = new Admission(limits);
  admission.enter('request', 'a');
  admission.enter('request', 'a');
  assert.throws(() => admission.enter('request', 'a'), /one caller may have 2 requests at once, and a has that many/);
  admission.enter('request', 'b');
  assert.throws(() => admission.enter('request', 'c'), /serves 3 requests at once/);
  assert.equal(admission.count('request'), 3);
});

test('kinds are counted apart', () => {
  const admission = new Admission(limits);
  admission.enter('stream', 'a');
  assert.throws(() => admission.enter('stream', 'b'), isRateLimited);
  admission.enter('request', 'a');
  admission.enter('websocket', 'a');
});

test('what has ended makes room, once', () => {
  const admission = new Admission(limits);
  const leave = admission.enter('stream', 'a');
  leave();
  leave();
  assert.equal(admission.count('stream'), 0);
  admission.enter('stream', 'a');
  assert.throws(() => admission.enter('stream', 'a'), isRateLimited);
});
