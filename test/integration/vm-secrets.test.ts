// First-boot secrets of VMs: who may change a VM reads them, a viewer reads a marker in their place, wherever VMs are
// shown, and the marker can't be written back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { stringify } from 'yaml';
import { hiddenSecret } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { connect } from '../../src/client/node-transport.ts';
import { atEnd } from '../support/cleanup.ts';
import { assertRefused, makeVm, readVm, sharedFakeLodge } from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();
const userData = '#cloud-config\nwrite_files: [{path: /key, content: s3cr3t}]\n';

test('a viewer sees neither password nor user-data of a VM, alone, in lists, by filters or in the stream', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  await makeVm(daemon, 'web1', { cloudInit: { user: 'ada', password: 'enigma', userData } }, { start: true });
  const { secret } = await client.token.create({ body: { name: 'looker', role: 'viewer' } });
  atEnd(t, () => client.token.delete({ params: { token: 'looker' } }));
  const viewer = connect({ socketPath: daemon.socketPath, token: secret });
  atEnd(t, () => viewer.close());

  const asAdmin = await readVm(daemon, 'web1');
  assert.match(asAdmin.spec.cloudInit?.password ?? '', /^\$6\$/);
  assert.equal(asAdmin.spec.cloudInit?.userData, userData);

  const check = (vm: Vm | undefined): void => {
    assert.ok(vm);
    const hidden = { user: 'ada', sshKeys: [], password: hiddenSecret, userData: hiddenSecret };
    assert.deepEqual(vm.spec.cloudInit, hidden);
    assert.deepEqual(vm.status.startedSpec?.cloudInit, hidden);
    assert.doesNotMatch(stringify(vm), /\$6\$|s3cr3t/);
  };
  check(await viewer.client.vm.get({ params: { vm: 'web1' } }));
  check((await viewer.client.vm.list()).items[0]);

  const byHash = { query: { filter: `spec.cloudInit.password~${asAdmin.spec.cloudInit?.password?.slice(0, 10)}` } };
  assert.equal((await client.vm.list(byHash)).total, 1);
  assert.equal((await viewer.client.vm.list(byHash)).total, 0);

  const { revision } = await viewer.client.vm.list();
  const stream = await viewer.client.event.stream({ query: { since: revision, kinds: 'vm' } });
  await client.vm.update({ params: { vm: 'web1' }, body: { labels: { seen: 'yes' }, spec: asAdmin.spec } });
  for await (const change of stream) {
    if (change.kind !== 'vm') continue;
    check(change.object as Vm);
    break;
  }

  const { items } = await viewer.client.task.list();
  assert.doesNotMatch(JSON.stringify(items), /\$6\$|s3cr3t|enigma/);
  const events = await viewer.client.event.list();
  assert.doesNotMatch(JSON.stringify(events.items), /\$6\$|s3cr3t|enigma/);
});

test('what a viewer has read is refused where it would be written back', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  const { spec } = await makeVm(daemon, 'web1', { cloudInit: { password: 'enigma', userData } });
  for (const field of ['password', 'userData'] as const) {
    const cloudInit = { ...spec.cloudInit, [field]: hiddenSecret };
    const change = client.vm.update({ params: { vm: 'web1' }, body: { spec: { ...spec, cloudInit } } });
    await assertRefused(daemon, change, 'invalid_request', `spec.cloudInit.${field}`);
    const copy = client.vm.create({ body: { name: 'web2', spec: { nics: [], cloudInit } } });
    await assertRefused(daemon, copy, 'invalid_request', `spec.cloudInit.${field}`);
  }
  assert.deepEqual((await readVm(daemon, 'web1')).spec, spec);
});
