import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostAddresses } from './host-addresses.ts';

test('a guest is reached at its own addresses on its own networks, and nowhere else', () => {
  const network = { ipv4Cidr: '10.88.0.0/24', gateway: '10.88.0.1' };
  const at = (addresses: string[], hostInterface: string | null = 'tap0'): string[] =>
    hostAddresses([{ network: 'default', hostInterface, addresses }], () => network);
  assert.deepEqual(at(['10.88.0.7', 'fd00::7']), ['10.88.0.7']);
  assert.deepEqual(at(['127.0.0.1', '10.88.0.1', '192.0.2.1', '169.254.169.254', 'nonsense']), []);
  assert.deepEqual(at(['10.88.0.7'], null), [], 'in user mode the host has no way to it');
  assert.deepEqual(
    hostAddresses([{ network: 'x', hostInterface: 'tap0', addresses: ['10.88.0.7'] }], () => null),
    [],
  );
});
