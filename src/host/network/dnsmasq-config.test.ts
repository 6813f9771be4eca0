// The files of dnsmasq: what is written for a definition, what is refused, and leases as it writes them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  buildDnsmasqConfig,
  buildNames,
  buildReservations,
  DnsmasqDefinitionError,
  dnsmasqConfigName,
  parseLeases,
  type DnsmasqDefinition,
} from './dnsmasq-config.ts';

const definition: DnsmasqDefinition = {
  folder: '/run/lodge/networks/net-1',
  link: 'br1',
  domain: 'lodge.internal',
  ipv4: { cidr: '10.88.0.1/24', rangeFirst: '10.88.0.10', rangeLast: '10.88.0.254' },
  ipv6: { cidr: 'fd00:88::1/64', rangeFirst: 'fd00:88::a', rangeLast: 'fd00:88::ffff' },
  leaseSeconds: 3600,
  upstreamServers: 'host',
};

function refused(field: string, action: () => unknown): void {
  assert.throws(action, (error: unknown) => {
    assert.ok(error instanceof DnsmasqDefinitionError, String(error));
    assert.equal(error.field, field);
    assert.ok(error.message.includes(JSON.stringify(error.value)), error.message);
    return true;
  });
}

test('the configuration serves one link only, drops privileges, and gives out both families', () => {
  const lines = buildDnsmasqConfig(definition, 'dnsmasq', 7).split('\n');
  for (const line of [
    'user=dnsmasq',
    'interface=br1',
    'except-interface=lo',
    'bind-dynamic',
    'local=/lodge.internal/',
    'resolv-file=/etc/resolv.conf',
    'dhcp-range=10.88.0.10,10.88.0.254,255.255.255.0,3600',
    'dhcp-range=fd00:88::a,fd00:88::ffff,slaac,64,3600',
    'enable-ra',
    'dhcp-leasefile=/run/lodge/networks/net-1/leases',
    // The IPv6 range alone has nearly as many.
    'dhcp-lease-max=65536',
  ]) {
    assert.ok(lines.includes(line), `${line} is not in\n${lines.join('\n')}`);
  }
  const one = buildDnsmasqConfig(
    { ...definition, ipv6: null, upstreamServers: ['9.9.9.9', '2620:fe::fe'], mtu: 1400 },
    'nobody',
    7,
  );
  assert.match(one, /^no-resolv\nserver=9\.9\.9\.9\nserver=2620:fe::fe$/m);
  assert.match(one, /^dhcp-option=option:mtu,1400$/m);
  assert.match(one, /^dhcp-lease-max=245$/m);
  assert.doesNotMatch(one, /enable-ra|resolv-file/);
  assert.match(buildDnsmasqConfig({ ...definition, upstreamServers: [] }, 'nobody', 7), /^no-resolv\ndhcp-leasefile/m);
});

test('guests that boot over the network are told what fits their firmware', () => {
  const boot = (given: NonNullable<DnsmasqDefinition['boot']>): string[] =>
    buildDnsmasqConfig({ ...definition, boot: given }, 'nobody', 7)
      .split('\n')
      .filter((line) => /boot|tftp|HTTPClient/.test(line));
  assert.deepEqual(boot({ file: 'pxelinux.0', uefiFile: 'bootnetx64.efi', tftpFolder: '/srv/tftp' }), [
    'dhcp-boot=tag:uefi,bootnetx64.efi',
    'dhcp-boot=tag:!uefi,tag:!uefi-http,pxelinux.0',
    'enable-tftp',
    'tftp-root=/srv/tftp',
    'tftp-no-fail',
    'tftp-single-port',
  ]);
  assert.deepEqual(boot({ uefiFile: 'ipxe.efi', ipxeFile: 'menu.ipxe', server: '192.0.2.1' }), [
    'dhcp-boot=tag:ipxe,menu.ipxe,,192.0.2.1',
    'dhcp-boot=tag:uefi,tag:!ipxe,ipxe.efi,,192.0.2.1',
  ]);
  assert.deepEqual(boot({ uefiFile: 'http://192.0.2.1/boot.efi' }), [
    'dhcp-boot=tag:uefi,http://192.0.2.1/boot.efi',
    'dhcp-boot=tag:uefi-http,http://192.0.2.1/boot.efi',
    'dhcp-option-force=tag:uefi-http,60,HTTPClient',
  ]);
  assert.doesNotMatch(buildDnsmasqConfig(definition, 'nobody', 7), /boot|tftp|dhcp-match/);
  refused('boot.file', () => boot({ file: 'a\nuser=root' }));
});

test('the name of the configuration file follows from its content', () => {
  const name = dnsmasqConfigName(buildDnsmasqConfig(definition, 'dnsmasq', 7));
  assert.match(name, /^dnsmasq-[0-9a-f]{16}\.conf$/);
  assert.equal(name, dnsmasqConfigName(buildDnsmasqConfig({ ...definition }, 'dnsmasq', 7)));
  for (const other of [
    buildDnsmasqConfig(definition, 'dnsmasq', 8),
    buildDnsmasqConfig(definition, 'nobody', 7),
    buildDnsmasqConfig({ ...definition, leaseSeconds: 3601 }, 'dnsmasq', 7),
  ]) {
    assert.notEqual(name, dnsmasqConfigName(other));
  }
});

test('values that make no sense are refused by their field', () => {
  const build = (more: Partial<DnsmasqDefinition>) => () => buildDnsmasqConfig({ ...definition, ...more }, 'nobody', 1);
  const ipv4 = definition.ipv4!;
  refused('domain', build({ domain: 'lodge.internal\nuser=root' }));
  refused('domain', build({ domain: '' }));
  refused('folder', build({ folder: '/run/a b' }));
  refused('folder', build({ folder: 'run' }));
  refused('link', build({ link: 'a,b' }));
  refused('leaseSeconds', build({ leaseSeconds: 119 }));
  refused('leaseSeconds', build({ leaseSeconds: Number.NaN }));
  refused('mtu', build({ mtu: 100 }));
  refused('upstreamServers', build({ upstreamServers: ['9.9.9.9', 'dns.example'] }));
  refused('ipv4', build({ ipv4: null, ipv6: null }));
  refused('ipv4.cidr', build({ ipv4: { ...ipv4, cidr: '10.88.0.1' } }));
  refused('ipv4.cidr', build({ ipv4: { ...ipv4, cidr: '10.88.0.1/31' } }));
  refused('ipv4.cidr', build({ ipv4: { ...ipv4, cidr: 'fd00::1/64' } }));
  refused('ipv4.rangeFirst', build({ ipv4: { ...ipv4, rangeFirst: '10.89.0.10' } }));
  refused('ipv4.rangeLast', build({ ipv4: { ...ipv4, rangeLast: 'x' } }));
  refused('ipv4.rangeFirst', build({ ipv4: { ...ipv4, rangeFirst: '10.88.0.20', rangeLast: '10.88.0.19' } }));
  refused('ipv6.cidr', build({ ipv6: { ...definition.ipv6!, cidr: 'fd00:88::1/80' } }));
});

test('reservations are one line a network card, in one order', () => {
  const reservations = [
    { macAddress: '52:54:00:00:00:02', hostName: 'DB1' },
    { macAddress: '52-54-00-00-00-01', ipv4: '10.88.0.5', ipv6: 'fd00:88:0::5', hostName: 'web1' },
    { macAddress: '52:54:00:00:00:03', ipv4: '10.88.0.6' },
  ];
  const text = '52:54:00:00:00:01,10.88.0.5,[fd00:88::5],web1\n52:54:00:00:00:02,db1\n52:54:00:00:00:03,10.88.0.6\n';
  assert.equal(buildReservations(definition, reservations), text);
  assert.equal(buildReservations(definition, reservations.toReversed()), text);
});

test('reservations that can not be kept are refused by their field', () => {
  const one = { macAddress: '52:54:00:00:00:01' };
  const two = { macAddress: '52:54:00:00:00:02' };
  const build =
    (...reservations: Parameters<typeof buildReservations>[1]) =>
    () =>
      buildReservations(definition, reservations);
  refused('macAddress', build({ macAddress: 'x' }));
  refused('macAddress', build(one, one));
  refused('ipv4', build({ ...one, ipv4: '10.89.0.5' }));
  refused('ipv4', build({ ...one, ipv4: 'fd00:88::5' }));
  refused('ipv4', build({ ...one, ipv4: '10.88.0.1' }));
  refused('ipv4', build({ ...one, ipv4: '10.88.0.0' }));
  refused('ipv4', build({ ...one, ipv4: '10.88.0.255' }));
  refused('ipv6', build({ ...one, ipv6: 'fd00:89::5' }));
  refused('address', build({ ...one, ipv4: '10.88.0.5' }, { ...two, ipv4: '10.88.0.5' }));
  refused('hostName', build({ ...one, hostName: 'web1,ignore' }));
  refused('hostName', build({ ...one, hostName: 'web1.other' }));
  refused('hostName', build({ ...one, hostName: 'web1' }, { ...two, hostName: 'WEB1' }));
  assert.throws(
    () => buildReservations({ ...definition, ipv6: null }, [{ ...one, ipv6: 'fd00:88::5' }]),
    /it has none of this family/,
  );
});

test('names are written as in /etc/hosts', () => {
  assert.equal(
    buildNames([{ name: 'Registry', addresses: ['10.88.0.1', 'fd00:88:0::1'] }]),
    '10.88.0.1 registry\nfd00:88::1 registry\n',
  );
  refused('name', () => buildNames([{ name: 'a b', addresses: [] }]));
  refused('addresses', () => buildNames([{ name: 'a', addresses: ['10.0.0'] }]));
});

test('leases of both families are read as dnsmasq 2.90 writes them', () => {
  const text = `1764800000 52:54:00:00:00:01 10.88.0.5 web1 ff:00:00:00:01:00:01
0 52:54:00:00:00:02 10.88.0.77 * *
duid 00:01:00:01:30:8f:00:00:0a:47:b5:b6:68:23
1764800001 5 fd00:88::5 web1 00:03:00:01:52:54:00:00:00:01
1764800002 6 fd00:88::16b0 * 00:01:00:01:2c:11:22:33:52:54:00:00:00:02
1764800003 T7 fd00:88::7 * 00:02:00:00:ab:11
`;
  assert.deepEqual(parseLeases(text), [
    {
      family: 4,
      address: '10.88.0.5',
      macAddress: '52:54:00:00:00:01',
      hostName: 'web1',
      clientId: 'ff:00:00:00:01:00:01',
      expiresAt: new Date(1764800000000),
    },
    {
      family: 4,
      address: '10.88.0.77',
      macAddress: '52:54:00:00:00:02',
      hostName: null,
      clientId: null,
      expiresAt: null,
    },
    {
      family: 6,
      address: 'fd00:88::5',
      macAddress: '52:54:00:00:00:01',
      hostName: 'web1',
      clientId: '00:03:00:01:52:54:00:00:00:01',
      expiresAt: new Date(1764800001000),
    },
    {
      family: 6,
      address: 'fd00:88::16b0',
      macAddress: '52:54:00:00:00:02',
      hostName: null,
      clientId: '00:01:00:01:2c:11:22:33:52:54:00:00:00:02',
      expiresAt: new Date(1764800002000),
    },
    {
      family: 6,
      address: 'fd00:88::7',
      macAddress: null,
      hostName: null,
      clientId: '00:02:00:00:ab:11',
      expiresAt: new Date(1764800003000),
    },
  ]);
});

test('a file of leases that is cut off or is something else gives what can be read', () => {
  assert.deepEqual(parseLeases(''), []);
  assert.deepEqual(parseLeases('\0\0\0\nhello\n1764800000 52:54:00:00:00:01 10.88.0'), []);
  assert.equal(parseLeases('1764800000 52:54:00:00:00:01 10.88.0.5 web1 *\n1764800000 52:54:00:0').length, 1);
});
