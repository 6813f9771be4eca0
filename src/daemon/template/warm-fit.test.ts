import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { whyNotWarm } from './warm-fit.ts';

const prepared: VmSpecInput = {
  image: 'base',
  memoryMib: 512,
  cpu: { count: 2 },
  nics: [{ network: 'default' }],
  disks: [{ name: 'root', sizeMib: 4096 }],
};

function why(change: VmSpecInput, before: VmSpecInput = prepared): string | null {
  return whyNotWarm(vmSpec.parse(before), vmSpec.parse({ ...prepared, ...change }));
}

test('a VM with the same hardware can go on from it, whatever it is for', () => {
  assert.equal(why({}), null);
  assert.equal(why({ description: 'web', autostart: true, stopTimeoutS: 5 }), null);
  const mac = '52:54:00:11:22:33';
  assert.equal(why({ nics: [{ network: 'lab', mac, ipv4Address: '10.0.0.9', isConnected: false }] }), null);
});

test('what differs is named with both values', () => {
  assert.equal(why({ memoryMib: 1024 }), 'memoryMib is 1024, and it was prepared with 512');
  assert.equal(why({ cpu: { count: 4 } }), 'cpu.count is 4, and it was prepared with 2');
  assert.equal(
    why({ disks: [{ name: 'root', sizeMib: 8192 }] }),
    'disks.0.sizeMib is 8192, and it was prepared with 4096',
  );
  assert.equal(why({ nics: [] }), 'nics.0 is not set, and it was prepared with {"network":"","isConnected":true}');
  assert.match(why({ machine: 'pc' }) ?? '', /^machine is "pc"/);
  assert.match(why({ firmware: { commandLineExtra: 'debug' } }) ?? '', /^firmware\.commandLineExtra is "debug"/);
});

test('first-boot data counts at a first boot only, but for the host name', () => {
  const user = { user: 'ann', sshKeys: ['ssh-ed25519 AAAA ann'] };
  assert.match(why({ cloudInit: user }) ?? '', /^cloudInit is another, and first-boot data/);
  const before = { ...prepared, cloudInit: user };
  assert.equal(why({ cloudInit: { ...user, hostname: 'web1' } }, before), null);
  assert.match(why({ cloudInit: { ...user, user: 'bob' } }, before) ?? '', /^cloudInit\.user is another/);
});
