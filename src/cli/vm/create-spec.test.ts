import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { vmSpec } from '../../api/vm-spec.ts';
import { parseDisk, parseNic, parseShare, readSshKeys, specFromOptions } from './create-spec.ts';

const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDkgLWZha2Uta2V5LWZvci10ZXN0cw ann@host';

test('nothing given leaves everything to the contract', async () => {
  assert.deepEqual(await specFromOptions({ agent: true }), { cpu: {}, firmware: {} });
  assert.deepEqual(vmSpec.parse(await specFromOptions({ agent: true })), vmSpec.parse({}));
});

test('the command of the introduction makes the spec it promises', async () => {
  const spec = await specFromOptions({
    image: 'debian-12',
    cpus: 2,
    memory: 2048,
    disk: ['20GiB'],
    sshKey: [key],
    agent: true,
  });
  assert.deepEqual(spec, {
    image: 'debian-12',
    cpu: { count: 2 },
    memoryMib: 2048,
    firmware: {},
    disks: [{ name: 'root', sizeMib: 20_480 }],
    cloudInit: { sshKeys: [key] },
  });
  assert.equal(vmSpec.safeParse(spec).success, true);
});

test('disks are sizes, or keys; the first is the root disk', () => {
  assert.deepEqual(parseDisk('20', 0), { name: 'root', sizeMib: 20_480 });
  assert.deepEqual(parseDisk('512MiB', 1), { name: 'disk1', sizeMib: 512 });
  assert.deepEqual(parseDisk('name=data,size=1TiB,bus=scsi,cache=none', 1), {
    name: 'data',
    sizeMib: 1_048_576,
    bus: 'scsi',
    cache: 'none',
  });
  assert.deepEqual(parseDisk('volume=backup,readonly=yes', 1), { name: 'backup', volume: 'backup', isReadOnly: true });
  assert.throws(() => parseDisk('siez=20GiB', 0), /"siez=20GiB" is not understood/);
  assert.throws(() => parseDisk('20 parsecs', 0), /--disk: .*parsecs/);
  assert.throws(() => parseDisk('size=1G,readonly=maybe', 0), /yes or no/);
});

test('shared folders are paths, or keys with ro as mount(8) has it', () => {
  assert.deepEqual(parseShare('/srv/My_Data/'), { name: 'my-data', path: '/srv/My_Data/' });
  assert.deepEqual(parseShare('src=/srv/data,tag=files,ro,driver=9p,mount=/data'), {
    name: 'files',
    path: '/srv/data',
    access: 'read-only',
    driver: '9p',
    mountPoint: '/data',
  });
  assert.deepEqual(parseShare('src=/srv/data,rw'), { name: 'data', path: '/srv/data', access: 'read-write' });
  assert.throws(() => parseShare('tag=data,ro'), /src=/);
  assert.throws(() => parseShare('src=/srv/data,readonly'), /"readonly" is not understood/);
});

test('NICs are names of networks, or keys; --mac and --ip are for the first', async () => {
  assert.deepEqual(parseNic('lab'), { network: 'lab' });
  assert.deepEqual(parseNic('network=lab,model=e1000,mac=52:54:00:AB:CD:EF'), {
    network: 'lab',
    model: 'e1000',
    mac: '52:54:00:ab:cd:ef',
  });
  assert.deepEqual((await specFromOptions({ network: ['none'], agent: true })).nics, []);
  assert.deepEqual((await specFromOptions({ ip: '10.77.0.9', agent: true })).nics, [
    { network: 'default', ipv4Address: '10.77.0.9' },
  ]);
  assert.deepEqual((await specFromOptions({ network: ['a', 'b'], mac: '52:54:00:00:00:01', agent: true })).nics, [
    { network: 'a', mac: '52:54:00:00:00:01' },
    { network: 'b' },
  ]);
  await assert.rejects(specFromOptions({ network: ['none'], ip: '10.0.0.1', agent: true }), /--network none/);
});

test('security groups are for the first NIC', async () => {
  assert.deepEqual((await specFromOptions({ securityGroup: ['web, base', 'ssh'], agent: true })).nics, [
    { network: 'default', securityGroups: ['web', 'base', 'ssh'] },
  ]);
  const two = await specFromOptions({ network: ['network=a,ip=10.1.0.2', 'b'], securityGroup: ['web'], agent: true });
  assert.deepEqual(two.nics, [{ network: 'a', ipv4Address: '10.1.0.2', securityGroups: ['web'] }, { network: 'b' }]);
  assert.equal(vmSpec.safeParse(two).success, true);
  await assert.rejects(
    specFromOptions({ network: ['none'], securityGroup: ['web'], agent: true }),
    /--security-group are for a NIC.*--network none/,
  );
});

test('a bus and a model are for all disks and NICs that name none', async () => {
  const spec = await specFromOptions({
    image: 'win',
    os: 'windows',
    hardware: 'emulated',
    disk: ['20GiB', 'name=data,size=1GiB,bus=scsi'],
    diskBus: 'sata',
    network: ['a', 'network=b,model=rtl8139'],
    nicModel: 'e1000',
    agent: true,
  });
  assert.deepEqual(
    spec.disks?.map(({ bus }) => bus),
    ['sata', 'scsi'],
  );
  assert.deepEqual(
    spec.nics?.map(({ model }) => model),
    ['e1000', 'rtl8139'],
  );
  assert.deepEqual([spec.os, spec.hardware], ['windows', 'emulated']);
  const bare = await specFromOptions({ image: 'debian-12', diskBus: 'nvme', nicModel: 'e1000e', agent: true });
  assert.deepEqual(bare.disks, [{ name: 'root', bus: 'nvme' }]);
  assert.deepEqual(bare.nics, [{ network: 'default', model: 'e1000e' }]);
  await assert.rejects(specFromOptions({ diskBus: 'sata', agent: true }), /--disk-bus/);
});

test('ssh keys come as text or from a file with comments; a private key is refused', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-keys-'));
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'keys.pub'), `# mine\n${key}\n\n${key}2\n`);
  await writeFile(join(folder, 'id'), '-----BEGIN OPENSSH PRIVATE KEY-----\nx\n');
  assert.deepEqual(await readSshKeys(key), [key]);
  assert.deepEqual(await readSshKeys(join(folder, 'keys.pub')), [key, `${key}2`]);
  await assert.rejects(readSshKeys(join(folder, 'id')), { message: /is a private key/, hint: /id\.pub/ });
  await assert.rejects(readSshKeys(join(folder, 'none.pub')), { message: /does not exist/, hint: /ssh-keygen/ });
});
