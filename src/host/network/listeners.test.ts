// Reading what ss prints.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseListeners } from './listeners.ts';

test('sockets that listen are read with address, family and holder', () => {
  const text = `udp   UNCONN 0      0      127.0.0.53%lo:53        0.0.0.0:*    users:(("systemd-resolve",pid=500,fd=13))
tcp   LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=711,fd=3))
tcp   LISTEN 0      128             [::]:22           [::]:*    users:(("sshd",pid=711,fd=4))
tcp   LISTEN 0      511                *:7443            *:*
tcp   LISTEN 0      32          [fd00::1]:53          [::]:*
`;
  assert.deepEqual(
    parseListeners(text).map(({ protocol, address, family, port, program, pid }) =>
      [protocol, address, family, port, program, pid].join(' '),
    ),
    [
      'udp 127.0.0.53 4 53 systemd-resolve 500',
      'tcp  4 22 sshd 711',
      'tcp  6 22 sshd 711',
      'tcp   7443  ',
      'tcp fd00::1 6 53  ',
    ],
  );
});
