// Reading QEMU's list of forwarded ports.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseUsernet } from './user-forwards.ts';

const text = `Hub -1 (net-525400000001):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   31       10.0.2.15 40112    192.168.1.1    443     0     0
  TCP[HOST_FORWARD]  29               *  8080       10.0.2.15    80     0     0
  UDP[HOST_FORWARD]  30       127.0.0.1  5353       10.0.2.15    53     0     0
Hub -1 (net-525400000002):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  33               *  9090       10.0.2.15    90     0     0
`;

test('the forwards of one NIC are read from what QEMU prints of all', () => {
  assert.deepEqual(parseUsernet(text, 'net-525400000001'), [
    { protocol: 'tcp', hostAddress: null, hostPort: 8080, guestPort: 80 },
    { protocol: 'udp', hostAddress: '127.0.0.1', hostPort: 5353, guestPort: 53 },
  ]);
  assert.deepEqual(parseUsernet('Hub -1 (net-1):\n  Protocol[State]\n', 'net-1'), []);
  assert.equal(parseUsernet(text, 'net-525400000003'), null);
});
