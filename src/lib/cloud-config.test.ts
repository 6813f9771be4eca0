import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from 'yaml';
import {
  checkSshPublicKey,
  CloudConfigError,
  composeMetaData,
  composeNetworkConfig,
  composeUserData,
} from './cloud-config.ts';

const blobOf = (...parts: (string | Buffer)[]): string =>
  Buffer.concat(
    parts.map((part) => {
      const bytes = Buffer.from(part);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      return Buffer.concat([length, bytes]);
    }),
  ).toString('base64');
const ED25519 = `ssh-ed25519 ${blobOf('ssh-ed25519', Buffer.alloc(32, 7))} me@laptop`;

const read = (text: string): Record<string, unknown> => {
  assert.ok(text.startsWith('#cloud-config\n'), 'the first line tells cloud-init what it is');
  return parse(text, { version: '1.1' }) as Record<string, unknown>;
};

test('fields become cloud-config for the user of the image', () => {
  const config = read(
    composeUserData({
      hostname: 'web1.example.org',
      sshAuthorizedKeys: [` ${ED25519}\n`],
      passwordHash: '$6$salt$0123456789abcdef',
      packages: ['nginx'],
      runCommands: ['echo hi', ['touch', '/a b']],
    }),
  );
  assert.deepEqual(config, {
    hostname: 'web1',
    fqdn: 'web1.example.org',
    prefer_fqdn_over_hostname: false,
    manage_etc_hosts: true,
    ssh_authorized_keys: [ED25519],
    password: '$6$salt$0123456789abcdef',
    chpasswd: { expire: false },
    package_update: true,
    packages: ['nginx'],
    runcmd: ['echo hi', ['touch', '/a b']],
  });
});

test('a login of its own is created with sudo, its keys and a locked password', () => {
  const config = read(composeUserData({ user: 'ada', sshAuthorizedKeys: [ED25519] }));
  assert.deepEqual(config['users'], [
    {
      name: 'ada',
      groups: ['sudo', 'adm'],
      sudo: 'ALL=(ALL) NOPASSWD:ALL',
      shell: '/bin/bash',
      lock_passwd: true,
      ssh_authorized_keys: [ED25519],
    },
  ]);
});

test('a copy of another machine gets a machine id and host keys of its own, once', () => {
  const config = parse(composeUserData({ isCopy: true })) as { ssh_deletekeys: boolean; bootcmd: string[][] };
  assert.equal(config.ssh_deletekeys, true);
  assert.deepEqual(config.bootcmd[0]?.slice(0, 3), ['cloud-init-per', 'instance', 'lodge-machine-id']);
  assert.equal(composeUserData({ isCopy: false }), composeUserData({}));
  const network = composeNetworkConfig([{ macAddress: '52:54:00:00:00:01', isKnownByMac: true }]);
  assert.match(network, /dhcp-identifier: mac/);
});

test('what is mounted stands in fstab, is mounted at once, and keeps no guest from booting', () => {
  const mount = { source: 'data', mountPoint: '/mnt/data', type: 'virtiofs', options: 'rw' };
  const { bootcmd } = parse(composeUserData({ isCopy: true, mounts: [mount] })) as { bootcmd: string[][] };
  assert.deepEqual(
    bootcmd.map(([, , name]) => name),
    ['lodge-machine-id', 'lodge-mounts'],
  );
  const script = bootcmd[1]!.at(-1)!;
  assert.match(
    script,
    /mkdir -p \/mnt\/data; .*'data \/mnt\/data virtiofs rw,nofail 0 0' >> \/etc\/fstab; mount \/mnt\/data; true$/,
  );
  assert.equal(composeUserData({ mounts: [] }), composeUserData({}));
  for (const mountPoint of ['/a b', "/a'b", '/a;reboot', '/a\nb', ''])
    assert.throws(() => composeUserData({ mounts: [{ ...mount, mountPoint }] }), /fstab/);
});

test('nothing given is still a valid cloud-config', () => {
  assert.deepEqual(read(composeUserData({})), {});
});

test('words that YAML 1.1 reads as something else stay words', () => {
  const config = read(
    composeUserData({
      hostname: 'no',
      packages: ['on', '1e3'],
      runCommands: ['0755', 'a: b', '- x', '#c', 'tab\tline\nbreak'],
    }),
  );
  assert.equal(config['hostname'], 'no');
  assert.deepEqual(config['packages'], ['on', '1e3']);
  assert.deepEqual(config['runcmd'], ['0755', 'a: b', '- x', '#c', 'tab\tline\nbreak']);
});

test("the user's own cloud-config wins, and lists are joined", () => {
  const own = '#cloud-config\nhostname: db1\npackages: [htop]\nchpasswd:\n  list: [a]\nwrite_files:\n- path: /x\n';
  const config = read(
    composeUserData({ hostname: 'web1', packages: ['nginx'], passwordHash: '$6$salt$0123456789' }, own),
  );
  assert.equal(config['hostname'], 'db1');
  assert.deepEqual(config['packages'], ['nginx', 'htop']);
  assert.deepEqual(config['chpasswd'], { expire: false, list: ['a'] });
  assert.deepEqual(config['write_files'], [{ path: '/x' }]);
});

test("a script of the user's becomes a part beside Lodge's", () => {
  const own = '#!/bin/sh\necho "grüß dich"\n';
  const message = composeUserData({ hostname: 'web1' }, own);
  assert.match(message, /^Content-Type: multipart\/mixed; boundary="lodge-part"\nMIME-Version: 1\.0\n\n/);
  const parts = message.split('--lodge-part').slice(1, -1);
  assert.deepEqual(
    parts.map((part) => /Content-Type: ([^;]*)/.exec(part)?.[1]),
    ['text/cloud-config', 'text/x-shellscript'],
  );
  const body = (part: string | undefined): string =>
    Buffer.from(part?.split('\n\n')[1] ?? '', 'base64').toString('utf8');
  assert.equal(body(parts[1]), own);
  assert.equal(read(body(parts[0]))['hostname'], 'web1');
});

test('user-data cloud-init could not tell or read is refused', () => {
  for (const own of [
    'hello',
    '#cloud-config\n- a list',
    '#cloud-config\na: [',
    `#cloud-config\n#${'x'.repeat(2 ** 20)}`,
  ]) {
    assert.throws(() => composeUserData({}, own), { name: 'CloudConfigError', field: 'userData' });
  }
});

test('YAML that multiplies itself is refused, not expanded', () => {
  const levels = Array.from({ length: 9 }, (_, index) => `a${index + 1}: &a${index + 1} [${`*a${index},`.repeat(9)}]`);
  assert.throws(
    () => composeUserData({}, `#cloud-config\na0: &a0 [x,x,x,x,x,x,x,x,x]\n${levels.join('\n')}\n`),
    CloudConfigError,
  );
});

test('fields that can not be what they should be are refused by name', () => {
  const cases: [string, Parameters<typeof composeUserData>[0]][] = [
    ['hostname', { hostname: '../x' }],
    ['hostname', { hostname: 'a\nb' }],
    ['hostname', { hostname: '' }],
    ['hostname', { hostname: 'аdmin' }],
    ['user', { user: 'Root User' }],
    ['passwordHash', { passwordHash: 'secret' }],
    ['packages', { packages: ['--force'] }],
    ['sshAuthorizedKeys.0', { sshAuthorizedKeys: ['nonsense'] }],
  ];
  for (const [field, fields] of cases)
    assert.throws(() => composeUserData(fields), { name: 'CloudConfigError', field });
});

test('ssh keys are taken by content, not by look', () => {
  assert.equal(checkSshPublicKey(`${ED25519}\n`), ED25519);
  const rsa = (bits: number): string =>
    `ssh-rsa ${blobOf('ssh-rsa', Buffer.from([1, 0, 1]), Buffer.concat([Buffer.from([0]), Buffer.alloc(bits / 8, 0xff)]))}`;
  assert.equal(checkSshPublicKey(rsa(2048)), rsa(2048));
  for (const [bad, why] of [
    [rsa(1024), /1024 bits/],
    [`${ED25519}\n${ED25519}`, /one line/],
    [ED25519.slice(0, 40), /base64|cut off/],
    [`ssh-ed25519 ${blobOf('ssh-rsa', 'x')}`, /does not agree/],
    [`ssh-ed25519 ${blobOf('ssh-ed25519', 'short')}`, /length/],
    ['ssh-dss AAAA', /begins with none/],
    ['-----BEGIN OPENSSH PRIVATE KEY-----', /private key/],
    [`command="x" ${ED25519}`, /begins with none/],
  ] as [string, RegExp][]) {
    assert.throws(() => checkSshPublicKey(bad), { name: 'CloudConfigError', message: why });
  }
});

test('meta-data hold the instance and its short name', () => {
  assert.deepEqual(parse(composeMetaData({ instanceId: 'i-1', hostname: 'web1.example.org' })), {
    'instance-id': 'i-1',
    'local-hostname': 'web1',
  });
});

test('interfaces are found by their MAC address, with DHCP where nothing else is said', () => {
  const config = parse(
    composeNetworkConfig([
      { macAddress: '52:54:00:AB:CD:EF' },
      {
        macAddress: '52:54:00:00:00:02',
        addresses: ['192.0.2.10/24'],
        gateway4: '192.0.2.1',
        nameservers: ['192.0.2.53'],
        mtu: 9000,
      },
    ]),
  ) as unknown;
  assert.deepEqual(config, {
    version: 2,
    ethernets: {
      lodge0: { match: { macaddress: '52:54:00:ab:cd:ef' }, dhcp4: true },
      lodge1: {
        match: { macaddress: '52:54:00:00:00:02' },
        dhcp4: false,
        addresses: ['192.0.2.10/24'],
        routes: [{ to: '0.0.0.0/0', via: '192.0.2.1' }],
        nameservers: { addresses: ['192.0.2.53'] },
        mtu: 9000,
      },
    },
  });
  assert.throws(() => composeNetworkConfig([{ macAddress: 'eth0' }]), { field: 'interfaces.0.macAddress' });
});
