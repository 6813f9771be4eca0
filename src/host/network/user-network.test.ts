// The back end that QEMU gets for a user-mode network, and what is refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildUserNetdev, UserNetworkError, type UserNetworkOptions } from './user-network.ts';

test('a user-mode network has its block, its names and its forwarded ports', () => {
  assert.deepEqual(buildUserNetdev({ id: 'net0' }), {
    type: 'user',
    id: 'net0',
    ipv4: true,
    ipv6: true,
    net: '10.0.2.0/24',
    restrict: false,
  });
  const netdev = buildUserNetdev({
    id: 'net0',
    ipv4Cidr: '10.5.0.9/24',
    hasIpv6: false,
    isRestricted: true,
    hostName: 'web1',
    domain: 'lodge.internal',
    forwards: [
      { protocol: 'tcp', hostPort: 2222, guestPort: 22 },
      { protocol: 'udp', hostAddress: '0.0.0.0', hostPort: 2222, guestPort: 53 },
    ],
  });
  assert.deepEqual(netdev, {
    type: 'user',
    id: 'net0',
    ipv4: true,
    ipv6: false,
    net: '10.5.0.0/24',
    restrict: true,
    hostname: 'web1',
    domainname: 'lodge.internal',
    dnssearch: [{ str: 'lodge.internal' }],
    hostfwd: [{ str: 'tcp:127.0.0.1:2222-:22' }, { str: 'udp:0.0.0.0:2222-:53' }],
  });
});

test('what QEMU would refuse or misread is refused by its field', () => {
  const forward = { protocol: 'tcp' as const, hostPort: 2222, guestPort: 22 };
  const cases: [string, Partial<UserNetworkOptions>][] = [
    ['id', { id: '0net' }],
    ['ipv4Cidr', { ipv4Cidr: '10.0.2.0' }],
    ['ipv4Cidr', { ipv4Cidr: '10.0.2.0/30' }],
    ['ipv4Cidr', { ipv4Cidr: 'fd00::/64' }],
    ['hostName', { hostName: 'a,restrict=on' }],
    ['domain', { domain: '' }],
    ['forwards[0].hostPort', { forwards: [{ ...forward, hostPort: 0 }] }],
    ['forwards[1].guestPort', { forwards: [forward, { ...forward, guestPort: 65536 }] }],
    ['forwards[0].hostAddress', { forwards: [{ ...forward, hostAddress: 'localhost' }] }],
    ['forwards[1]', { forwards: [forward, { ...forward, guestPort: 80 }] }],
  ];
  for (const [field, options] of cases) {
    assert.throws(
      () => buildUserNetdev({ id: 'net0', ...options }),
      (error: unknown) => error instanceof UserNetworkError && error.field === field,
      field,
    );
  }
});
