import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmSpec } from '../../src/api/vm-spec.ts';
import { draftCommands, draftDocuments, draftLabels, draftNames, draftSpec, emptyDraft } from './create-draft.ts';

test('a name and an image are enough', () => {
  const draft = { ...emptyDraft, name: 'web1', image: 'debian-12' };
  assert.deepEqual(draftSpec(draft), { image: 'debian-12' });
  assert.deepEqual(draftCommands(draft), ['lodge vm create web1 --image debian-12']);
  assert.deepEqual(draftDocuments(draft), [{ kind: 'Vm', name: 'web1', spec: { image: 'debian-12' } }]);
});

test('the defaults that are shown are those of the contract', () => {
  const spec = vmSpec.parse({});
  assert.equal(emptyDraft.vcpus, spec.cpu.count);
  assert.equal(emptyDraft.memoryMib, spec.memoryMib);
  assert.equal(emptyDraft.network, spec.nics[0]?.network);
});

test('everything that was chosen is in the spec and in the command', () => {
  const draft = {
    ...emptyDraft,
    name: 'db',
    count: 2,
    image: 'debian-12',
    vcpus: 4,
    memoryMib: 4096,
    diskMib: 20_480,
    network: null,
    hardware: 'mixed',
    os: 'linux',
    profiles: ['web'],
    sshKeys: 'ssh-ed25519 AAAA me\n\n',
    userData: '#cloud-config\n',
    autostart: true,
    isStarted: false,
    labels: 'app=db, old',
    description: "It's a test",
  };
  const spec = vmSpec.parse(draftSpec(draft));
  assert.equal(spec.cpu.count, 4);
  assert.deepEqual(spec.nics, []);
  assert.equal(spec.disks[0]?.sizeMib, 20_480);
  assert.deepEqual(draftLabels(draft), { app: 'db', old: '' });
  assert.deepEqual(draftNames(draft), ['db-1', 'db-2']);
  assert.equal(
    draftCommands(draft)[1],
    String.raw`lodge vm create db-2 --image debian-12 --cpus 4 --memory 4096MiB --os linux --hardware mixed --disk 20480MiB --network none --profile web --ssh-key 'ssh-ed25519 AAAA me' --user-data user-data.yaml --label app=db --label old= --description 'It'\''s a test' --autostart --no-start`,
  );
});

test('an instance type says processor and memory', () => {
  const draft = { ...emptyDraft, name: 'a', instanceType: 'large', vcpus: 9 };
  assert.deepEqual(draftSpec(draft), { instanceType: 'large' });
});
