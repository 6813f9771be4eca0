import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DurationError, formatAge, formatDuration, parseDurationMs, parseDurationS } from './duration.ts';

test('durations are numbers with units, and seconds without one', () => {
  assert.equal(parseDurationMs('90'), 90_000);
  assert.equal(parseDurationMs('1.5s'), 1500);
  assert.equal(parseDurationMs('250ms'), 250);
  assert.equal(parseDurationMs('1h30m'), 5_400_000);
  assert.equal(parseDurationMs('2d'), 172_800_000);
  assert.equal(parseDurationS('250ms'), 1);
});

test('what is not a duration is refused with what is allowed', () => {
  for (const text of ['', 'soon', '-5s', '5 minutes', '1h 30m', '5w', 'm5']) {
    assert.throws(() => parseDurationMs(text), DurationError, text);
  }
  assert.throws(() => parseDurationMs('5w'), /90s, 5m or 1h30m/);
  assert.throws(() => parseDurationMs('99999999d'), /more than 100 years/);
});

test('ages are one number and one unit', () => {
  assert.equal(formatAge(-5), '0s');
  assert.equal(formatAge(119_999), '119s');
  assert.equal(formatAge(180_000), '3m');
  assert.equal(formatAge(3 * 3_600_000), '3h');
  assert.equal(formatAge(12 * 86_400_000), '12d');
  assert.equal(formatAge(800 * 86_400_000), '2y');
});

test('durations are shown in the units that say something', () => {
  assert.equal(formatDuration(850), '850 ms');
  assert.equal(formatDuration(2440), '2.4s');
  assert.equal(formatDuration(59_400), '59s');
  assert.equal(formatDuration(59_600), '1m');
  assert.equal(formatDuration(200_000), '3m 20s');
  assert.equal(formatDuration(3_900_000), '1h 5m');
  assert.equal(formatDuration(51 * 3_600_000), '2d 3h');
});
