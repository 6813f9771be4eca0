import assert from 'node:assert/strict';
import { test } from 'node:test';
import { complete, type NameSource } from './complete.ts';

const names: NameSource = (kind) =>
  Promise.resolve(
    {
      vm: ['web1', 'web2', 'db1'],
      image: ['debian-12', 'tiny'],
      profile: ['web', 'wide'],
      'instance-type': ['small'],
      'security-group': ['base', 'web'],
    }[kind as string]?.map((word) => ({ word })) ?? [],
  );

async function words(line: string): Promise<string[]> {
  const { candidates, wantsFiles } = await complete(line.split(' ').slice(1), names);
  return [...candidates.map(({ word }) => word), ...(wantsFiles ? [':files'] : [])];
}

test('several profiles are completed with commas, and instance types and fields of both by what they are', async () => {
  assert.deepEqual(await words('lodge vm create x --profile w'), ['web', 'wide']);
  assert.deepEqual(await words('lodge vm create x --profile web,w'), ['web,wide']);
  assert.deepEqual(await words('lodge vm create x --profile=web,'), ['--profile=web,wide']);
  assert.deepEqual(await words('lodge vm create x --type s'), ['small']);
  assert.deepEqual(await words('lodge profile apply w'), ['web', 'wide']);
  assert.deepEqual(await words('lodge profile set web cpu.mo'), ['cpu.model=']);
  assert.deepEqual(await words('lodge instance-type set small mem'), ['memoryMib=']);
});

test('security groups of a new VM are completed with commas', async () => {
  assert.deepEqual(await words('lodge vm create x --security-group '), ['base', 'web']);
  assert.deepEqual(await words('lodge vm create x --security-group=web,'), ['--security-group=web,base']);
});

test('nouns, verbs and options are completed', async () => {
  assert.deepEqual(await words('lodge vo'), ['volume']);
  assert.deepEqual(await words('lodge -p shop vol'), ['volume']);
  assert.deepEqual(await words('lodge --so'), ['--socket']);
  assert.deepEqual(await words('lodge vm sus'), ['suspend']);
  assert.deepEqual(await words('lodge vm create --user'), ['--user', '--user-data']);
  assert.deepEqual(await words('lodge help vm sta'), ['stats', 'start']);
});

test('names come from the daemon, and none twice', async () => {
  assert.deepEqual(await words('lodge vm start we'), ['web1', 'web2']);
  assert.deepEqual(await words('lodge vm start web1 we'), ['web2']);
  assert.deepEqual(await words('lodge vms stop --force d'), ['db1']);
  assert.deepEqual(await words('lodge vm show web1 '), []);
  assert.deepEqual(await words('lodge vm create '), []);
});

test('values of options are completed, behind a space or an equals sign', async () => {
  assert.deepEqual(await words('lodge vm create x --image d'), ['debian-12']);
  assert.deepEqual(await words('lodge vm create x --image=d'), ['--image=debian-12']);
  assert.deepEqual(await words('lodge vm create x --machine q'), ['q35']);
  assert.deepEqual(await words('lodge vm create x --ssh-key '), [':files']);
  assert.deepEqual(await words('lodge vm list -o y'), ['yaml']);
});

test('values of options in front of the noun are completed too', async () => {
  assert.deepEqual(await words('lodge -o '), ['table', 'wide', 'name', 'json', 'yaml']);
  assert.deepEqual(await words('lodge --output j'), ['json']);
  assert.deepEqual(await words('lodge --socket /ru'), [':files']);
  assert.deepEqual(await words('lodge --project '), []);
  assert.deepEqual(await words('lodge events --f'), ['--follow']);
});

test('fields are completed level by level', async () => {
  assert.deepEqual(await words('lodge vm set web1 cp'), ['cpu.']);
  assert.ok((await words('lodge vm set web1 cpu.')).includes('cpu.count='));
  assert.deepEqual(await words('lodge vm set web1 cpu.count='), []);
});

test('paths are files here or files in a VM', async () => {
  assert.deepEqual(await words('lodge vm cp we'), ['web1:/', 'web2:/', ':files']);
  assert.deepEqual(await words('lodge vm cp ./we'), [':files']);
});

test('what is not known completes to nothing', async () => {
  assert.deepEqual(await words('lodge frob '), []);
  assert.deepEqual(await words('lodge vm frob x'), []);
  assert.deepEqual(await words('lodge node wat'), []);
});
