import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listensOn } from './listening-ports.ts';

const header = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
const line = (local: string, state: string): string =>
  `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 1234 1 0 100 0 0 10 0\n`;

test('a port is open when a socket listens on it, on more than the loopback address', () => {
  assert.ok(listensOn(header + line('00000000:1538', '0A'), 5432));
  assert.ok(listensOn(header + line('0100000A:0050', '0A'), 80));
  assert.ok(!listensOn(header + line('00000000:1538', '01'), 5432), 'a connection is no listener');
  assert.ok(!listensOn(header + line('00000000:1538', '0A'), 80));
  assert.ok(!listensOn(header + line('0100007F:1538', '0A'), 5432), 'nobody else can reach it');
});

test('IPv6 sockets count, which take IPv4 connections too', () => {
  const any = '00000000000000000000000000000000';
  const loopback = '00000000000000000000000001000000';
  assert.ok(listensOn(header + line(`${any}:0016`, '0A'), 22));
  assert.ok(!listensOn(header + line(`${loopback}:0016`, '0A'), 22));
});

test('what is no such table has no open ports', () => {
  for (const text of ['', 'x', '\0'.repeat(100), 'a b:c d 0A', `${header}0: :0050 x 0A\n`.replace(':0050', '')])
    assert.ok(!listensOn(text, 80), JSON.stringify(text));
});
