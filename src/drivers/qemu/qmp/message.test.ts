import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseGreeting, parseMessage } from './message.ts';

const line = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));

test('the greeting tells version, package and capabilities', () => {
  const version = { qemu: { micro: 2, minor: 0, major: 10 }, package: 'Debian 1:10.0.2' };
  assert.deepEqual(parseGreeting(line({ QMP: { version, capabilities: ['oob', 7] } })), {
    version: '10.0.2',
    package: 'Debian 1:10.0.2',
    capabilities: ['oob'],
  });
});

test('what is no greeting is refused with its beginning quoted', () => {
  assert.throws(() => parseGreeting(line('SSH-2.0-OpenSSH_9.2')), /not JSON: "SSH-2\.0-OpenSSH_9\.2"/);
  assert.throws(() => parseGreeting(line({ return: {} })), /no greeting/);
  assert.throws(() => parseGreeting(line({ QMP: {} })), /no greeting/);
  assert.throws(() => parseGreeting(line('[]')), /not a JSON object/);
  assert.throws(
    () => parseGreeting(line('x'.repeat(5000))),
    (error: Error) => error.message.length < 200,
  );
});

test('answers carry their id and their value', () => {
  assert.deepEqual(parseMessage(line({ return: { a: 1 }, id: 7 })), { kind: 'return', id: 7, value: { a: 1 } });
  assert.deepEqual(parseMessage(line({ return: {} })), { kind: 'return', id: null, value: {} });
});

test('an error keeps class and description, and survives without them', () => {
  const full = { error: { class: 'DeviceNotFound', desc: "Device 'x' not found" }, id: 3 };
  const expected = { kind: 'error', id: 3, errorClass: 'DeviceNotFound', description: "Device 'x' not found" };
  assert.deepEqual(parseMessage(line(full)), expected);
  const message = parseMessage(line({ error: null }));
  assert.equal(message.kind === 'error' && message.errorClass, 'GenericError');
});

test('an event has its time in milliseconds and tells whether it is in the table', () => {
  const timestamp = { seconds: 1_700_000_000, microseconds: 123_999 };
  assert.deepEqual(parseMessage(line({ event: 'RESUME', timestamp })), {
    kind: 'event',
    event: { name: 'RESUME', data: {}, timeMs: 1_700_000_000_123, isKnown: true },
  });
  const other = parseMessage(line({ event: 'toString', data: { x: 1 }, timestamp }));
  assert.equal(other.kind === 'event' && other.event.isKnown, false);
});

test('a message of an unknown kind is no error, a line that is no object is one', () => {
  assert.deepEqual(parseMessage(line({ progress: 5 })), { kind: 'unknown' });
  for (const bad of ['', 'null', '3', '"x"', '{"return":', '{"a":1}}']) {
    assert.throws(() => parseMessage(line(bad)), /a line that is not/, bad);
  }
});
