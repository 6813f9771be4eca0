// Addresses and blocks: the examples of the RFCs, and laws that hold for every address.
import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  addToIp,
  boundsOf,
  compareIp,
  formatCidr,
  formatIp,
  isInside,
  isUnicastMac,
  linkLocalOf,
  macFromBytes,
  netmaskOf,
  networkOf,
  normalizeMac,
  overlaps,
  parseCidr,
  parseIp,
  type Cidr,
  type IpAddress,
} from './ip-address.ts';

const ip = (text: string): IpAddress => parseIp(text) ?? assert.fail(`${text} was not read`);
const cidr = (text: string): Cidr => parseCidr(text) ?? assert.fail(`${text} was not read`);

const anyIp = fc.oneof(
  fc.bigInt(0n, 2n ** 32n - 1n).map((value): IpAddress => ({ family: 4, value })),
  fc.bigInt(0n, 2n ** 128n - 1n).map((value): IpAddress => ({ family: 6, value })),
);
const anyCidr = anyIp.chain((address) =>
  fc.nat(address.family === 4 ? 32 : 128).map((prefixLength): Cidr => ({ address, prefixLength })),
);

test('addresses are written in their canonical form', () => {
  for (const [text, canonical] of [
    ['192.168.0.1', '192.168.0.1'],
    ['0.0.0.0', '0.0.0.0'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    // The rules of RFC 5952, 4: no leading zeros, lower case, the longest run, the first of equal runs, no single group.
    ['2001:0DB8::0001', '2001:db8::1'],
    ['2001:db8:0:0:0:0:2:1', '2001:db8::2:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['::ffff:192.0.2.1', '::ffff:c000:201'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
  ] as const) {
    assert.equal(formatIp(ip(text)), canonical, text);
  }
});

test('text that is no address is refused', () => {
  for (const text of [
    '',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '01.2.3.4',
    '1.2.3.4 ',
    ' 1.2.3.4',
    '1.2.3.-4',
    '0x7f.0.0.1',
    '1.2.3.٤',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8',
    '12345::',
    'g::',
    'fe80::1%eth0',
    '::1.2.3',
    '1.2.3.4::',
    ':1:2:3:4:5:6:7',
    '::ffff:1.2.3.256',
  ]) {
    assert.equal(parseIp(text), null, JSON.stringify(text));
  }
});

test('what is read and what is not agrees with Node itself', () => {
  const alphabet = fc.constantFrom(...'0123456789abcF:.::'.split(''));
  fc.assert(
    fc.property(fc.string({ unit: alphabet, maxLength: 24 }), (text) => {
      assert.equal(parseIp(text)?.family ?? 0, isIP(text), text);
    }),
    { numRuns: 2000 },
  );
});

test('every address survives being written and read', () => {
  fc.assert(fc.property(anyIp, (address) => assert.deepEqual(parseIp(formatIp(address)), address)));
  fc.assert(fc.property(anyCidr, (block) => assert.deepEqual(parseCidr(formatCidr(block)), block)));
});

test('a block has a prefix that fits its family', () => {
  assert.equal(formatCidr(cidr('10.0.0.5/24')), '10.0.0.5/24');
  assert.equal(formatCidr(networkOf(cidr('10.0.0.5/24'))), '10.0.0.0/24');
  assert.equal(formatCidr(networkOf(cidr('fd00:1:2:3:4::5/64'))), 'fd00:1:2:3::/64');
  for (const text of [
    '10.0.0.0',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/024',
    '10.0.0.0/',
    '::/129',
    'x/8',
    '10.0.0.0/8/8',
  ]) {
    assert.equal(parseCidr(text), null, text);
  }
});

test('a block reaches from its network to its broadcast address', () => {
  const { first, last } = boundsOf(cidr('192.168.5.77/26'));
  assert.deepEqual([formatIp(first), formatIp(last)], ['192.168.5.64', '192.168.5.127']);
  assert.equal(formatIp(boundsOf(cidr('0.0.0.0/0')).last), '255.255.255.255');
  assert.equal(formatIp(boundsOf(cidr('fd00::/127')).last), 'fd00::1');
});

test('blocks overlap exactly when one holds the other', () => {
  assert.ok(overlaps(cidr('10.0.0.0/8'), cidr('10.88.0.0/24')));
  assert.ok(overlaps(cidr('10.88.0.7/24'), cidr('10.0.0.0/8')));
  assert.ok(!overlaps(cidr('10.88.0.0/24'), cidr('10.88.1.0/24')));
  assert.ok(!overlaps(cidr('0.0.0.0/0'), cidr('::/0')));
  fc.assert(
    fc.property(anyCidr, anyCidr, (one, other) => {
      assert.equal(overlaps(one, other), overlaps(other, one));
      assert.ok(overlaps(one, one));
      const { first, last } = boundsOf(one);
      assert.ok(isInside(first, one) && isInside(last, one) && isInside(one.address, one));
      const after = addToIp(last, 1);
      assert.ok(after === null || !isInside(after, one));
    }),
  );
});

test('counting on stops at the ends of the family', () => {
  assert.equal(formatIp(addToIp(ip('10.0.0.255'), 1)!), '10.0.1.0');
  assert.equal(addToIp(ip('255.255.255.255'), 1), null);
  assert.equal(addToIp(ip('::'), -1), null);
});

test('addresses are ordered by number, IPv4 first', () => {
  const sorted = ['::1', '10.0.0.10', '10.0.0.9', '::'].map(ip).sort(compareIp).map(formatIp);
  assert.deepEqual(sorted, ['10.0.0.9', '10.0.0.10', '::', '::1']);
});

test('a prefix length has a netmask', () => {
  assert.deepEqual([0, 8, 26, 32].map(netmaskOf), ['0.0.0.0', '255.0.0.0', '255.255.255.192', '255.255.255.255']);
});

test('MAC addresses are read in both spellings and written in one', () => {
  assert.equal(normalizeMac('52:54:00:AB:cd:01'), '52:54:00:ab:cd:01');
  assert.equal(normalizeMac('52-54-00-AB-cd-01'), '52:54:00:ab:cd:01');
  for (const text of [
    '52:54:00:ab:cd',
    '52:54-00:ab:cd:01',
    '525400abcd01',
    '52:54:00:ab:cd:0g',
    '52:54:00:ab:cd:01\n',
  ]) {
    assert.equal(normalizeMac(text), null, text);
  }
  assert.ok(isUnicastMac('52:54:00:00:00:01'));
  for (const mac of ['01:00:5e:00:00:01', 'ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00']) assert.ok(!isUnicastMac(mac), mac);
  assert.equal(macFromBytes('52:54:00', Uint8Array.of(1, 171, 255)), '52:54:00:01:ab:ff');
  assert.throws(() => macFromBytes('52:54:00', Uint8Array.of(1, 2)), RangeError);
});

test('a MAC address makes the address of its link', () => {
  assert.equal(linkLocalOf('34:56:78:9a:bc:de'), 'fe80::3656:78ff:fe9a:bcde');
  assert.equal(linkLocalOf('52:54:00:00:00:01'), 'fe80::5054:ff:fe00:1');
});
