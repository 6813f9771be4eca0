// Profiles and instance types over the API: what VMs have of them, what a change of one does, and what goes with it.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Profile, type ProfileSpecInput } from '../../src/api/profile.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { connect } from '../../src/client/node-transport.ts';
import { atEnd, type Cleanup } from '../support/cleanup.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, done, makeVm, readVm, sharedFakeLodge, untilState } from '../support/fake-lodge.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const firstTypes = ['2xlarge', 'large', 'medium', 'micro', 'small', 'xlarge'];
const tiny: VmSpecInput = { memoryMib: 64, nics: [] };

/** The daemon, which is left without profiles, and with the instance types it had. */
async function daemonFor(test: Cleanup): Promise<TestDaemon> {
  const { daemon } = await lodge(test);
  atEnd(test, async () => {
    const { client } = daemon;
    for (const { name, project } of (await client.profile.list()).items)
      await client.profile.delete({ params: { profile: name }, query: { force: true, project } });
    for (const { name, project } of (await client.instanceType.list()).items)
      if (!firstTypes.includes(name))
        await client.instanceType.delete({ params: { instanceType: name }, query: { force: true, project } });
  });
  return daemon;
}

async function makeProfile({ client }: TestDaemon, name: string, spec: ProfileSpecInput): Promise<void> {
  await client.profile.create({ body: { name, spec } });
}

/** Sends a VM's spec back with changes, as a client does that has read it. */
async function change({ client }: TestDaemon, name: string, fields: VmSpecInput): Promise<Vm> {
  const vm = await client.vm.get({ params: { vm: name } });
  return client.vm.update({ params: { vm: name }, body: { spec: { ...vm.spec, ...fields } } });
}

const origins = ({ spec }: Vm): Record<string, string> =>
  Object.fromEntries((spec.inherited ?? []).map((one) => [one.field, one.isOverridden ? 'own' : one.name]));

suite('a VM with profiles', () => {
  test('is prepared with what they give, where it says nothing itself', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const path = join(await temporaryFolder(t), 'disk.raw');
    await writeFile(path, Buffer.alloc(2 ** 20));
    await done(
      daemon,
      client.image.create({ body: { name: 'blank', spec: { source: { type: 'file', path, format: 'raw' } } } }),
    );
    await makeProfile(daemon, 'roomy', { memoryMib: 96, cpu: { count: 2 } });
    const spec: VmSpecInput = { image: 'blank', nics: [], profiles: ['roomy'], cpu: { count: 3 } };
    await done(daemon, client.template.prepare({ body: { spec } }));
    const { versions } = (await client.template.get({ params: { template: 'blank' } })).status;
    assert.equal(versions.at(-1)?.memory?.memoryMib, 96);
    // A size beside an instance type is refused, and one that is only the contract's default is none.
    const micro = { image: 'blank', nics: [], instanceType: 'micro' };
    const refused = client.template.prepare({ body: { spec: { ...micro, memoryMib: 77 } } });
    await assertRefused(daemon, refused, 'invalid_request');
    await done(daemon, client.template.delete({ params: { template: 'blank' } }));
    await done(daemon, client.template.prepare({ body: { spec: micro } }));
    const [made] = (await client.template.get({ params: { template: 'blank' } })).status.versions;
    const type = await client.instanceType.get({ params: { instanceType: 'micro' } });
    assert.equal(made?.memory?.memoryMib, type.spec.memoryMib);
    await done(daemon, client.template.delete({ params: { template: 'blank' } }));
    await done(daemon, client.image.delete({ params: { image: 'blank' } }));
  });

  test('has what they set, the last first, and what it says itself; each field tells where it is from', async (t) => {
    const daemon = await daemonFor(t);
    await makeProfile(daemon, 'web', { autostart: true, cpu: { count: 2, maxCount: 2 }, stopTimeoutS: 7 });
    await makeProfile(daemon, 'big', { cpu: { count: 3 }, restartPolicy: { mode: 'always' } });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web', 'big'], autostart: false, cpu: { maxCount: 4 } });
    const vm = await readVm(daemon, 'web1');
    const { cpu, autostart, stopTimeoutS, restartPolicy, memoryMib } = vm.spec;
    assert.deepEqual(
      [cpu.count, cpu.maxCount, autostart, stopTimeoutS, restartPolicy.mode, memoryMib],
      [3, 4, false, 7, 'always', 64],
    );
    assert.deepEqual(origins(vm), {
      autostart: 'own',
      'cpu.count': 'big',
      'cpu.maxCount': 'own',
      'restartPolicy.mode': 'big',
      stopTimeoutS: 'web',
    });
    const { items } = await daemon.client.profile.list();
    assert.deepEqual(
      items.map(({ name, status }) => [name, status.usedBy, status.outdated]),
      [
        ['big', ['web1'], []],
        ['web', ['web1'], []],
      ],
    );
  });

  test('is changed by a change of a profile only when that is applied, live where that is possible', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const params = { profile: 'web' };
    await makeProfile(daemon, 'web', { cpu: { count: 1, maxCount: 4 }, display: 'none' });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web'] }, { start: true });
    await makeVm(daemon, 'web2', { ...tiny, profiles: ['web'], cpu: { count: 3 } });
    const spec: ProfileSpecInput = { cpu: { count: 2, maxCount: 4 }, display: 'vnc' };
    const changed = await client.profile.update({ params, body: { spec } });
    assert.deepEqual(changed.status, { usedBy: ['web1', 'web2'], outdated: ['web1', 'web2'] });
    const from = { kind: 'profile', name: 'web' };
    const display = { field: 'display', current: 'none', wanted: 'vnc', from };
    const [first, second] = [await readVm(daemon, 'web1'), await readVm(daemon, 'web2')];
    assert.deepEqual(first.status.profileChanges, [{ field: 'cpu.count', current: 1, wanted: 2, from }, display]);
    assert.deepEqual(second.status.profileChanges, [display]);
    assert.deepEqual([first.spec.cpu.count, first.status.pendingChanges], [1, []]);
    const described = await change(daemon, 'web1', { description: 'x' });
    assert.equal(described.spec.cpu.count, 1, 'another change brings nothing along');

    const { items } = await client.profile.apply({ params, body: {} });
    assert.deepEqual(
      items.map(({ name, result, fields, error }) => [name, result, fields, error]),
      [
        ['web1', 'changed', ['cpu.count', 'display'], null],
        ['web2', 'changed', ['display'], null],
      ],
    );
    const after = await eventually(
      async () => {
        const vm = await readVm(daemon, 'web1');
        return vm.status.pendingChanges.some(({ needsRestart }) => !needsRestart) ? null : vm;
      },
      { describe: 'all that can change while it runs is changed', timeoutMs: 60_000 },
    );
    assert.equal(after.status.startedSpec?.cpu.count, 2);
    assert.deepEqual(
      after.status.pendingChanges.map(({ field, needsRestart }) => [field, needsRestart]),
      [['spec.display', true]],
    );
    assert.deepEqual((await readVm(daemon, 'web2')).spec.cpu.count, 3);
    assert.deepEqual((await client.profile.get({ params })).status.outdated, []);
    const again = await client.profile.apply({ params, body: { vms: ['web2'] } });
    assert.deepEqual(
      again.items.map(({ name, result }) => [name, result]),
      [['web2', 'unchanged']],
    );
  });

  test('one that can not be changed now keeps no other from it', async (t) => {
    const daemon = await daemonFor(t);
    const params = { profile: 'web' };
    await makeProfile(daemon, 'web', { cpu: { count: 2 } });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web'], cpu: { maxCount: 2 } });
    await makeVm(daemon, 'web2', { ...tiny, profiles: ['web'] });
    await daemon.client.profile.update({ params, body: { spec: { cpu: { count: 3 } } } });
    const { items } = await daemon.client.profile.apply({ params, body: {} });
    assert.deepEqual(
      items.map(({ name, result, error }) => [name, result, error?.code]),
      [
        ['web1', 'failed', 'invalid_request'],
        ['web2', 'changed', undefined],
      ],
    );
    assert.deepEqual(
      [(await readVm(daemon, 'web1')).spec.cpu.count, (await readVm(daemon, 'web2')).spec.cpu.count],
      [2, 3],
    );
    assert.deepEqual((await daemon.client.profile.get({ params })).status.outdated, ['web1']);
  });

  test('keeps what it has when the profile is deleted, which takes saying so', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const params = { profile: 'web' };
    await makeProfile(daemon, 'web', { stopTimeoutS: 7 });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web'] });
    const refused = await assertRefused(daemon, client.profile.delete({ params }), 'in_use');
    assert.match(refused.message, /web1/);
    await client.profile.delete({ params, query: { force: true } });
    const { spec } = await readVm(daemon, 'web1');
    assert.deepEqual([spec.stopTimeoutS, spec.profiles, spec.inherited], [7, undefined, undefined]);
    await assertRefused(daemon, client.profile.get({ params }), 'not_found');
  });

  test('can be cloned and made a template, and what comes of it names the same profiles', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    await makeProfile(daemon, 'web', { stopTimeoutS: 7 });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web'], disks: [{ name: 'root', sizeMib: 4 }] });
    await done(daemon, client.vm.clone({ params: { vm: 'web1' }, body: { name: 'web2' } }));
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
    const template = { template: 'base' };
    const changes = { memoryMib: 128 };
    await done(daemon, client.template.deploy({ params: template, body: { name: 'web3', changes } }));
    await done(daemon, client.template.delete({ params: template }));
    await client.profile.update({ params: { profile: 'web' }, body: { spec: { stopTimeoutS: 8 } } });
    for (const name of ['web2', 'web3']) {
      const vm = await readVm(daemon, name);
      assert.deepEqual(
        [vm.spec.profiles, vm.spec.stopTimeoutS, vm.status.profileChanges.map(({ wanted }) => wanted)],
        [['web'], 7, [8]],
      );
    }
    assert.equal((await readVm(daemon, 'web3')).spec.memoryMib, 128);
  });

  test('that is not there, named twice, or wrong in itself is refused with the field', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const create = (spec: VmSpecInput): Promise<unknown> => client.vm.create({ body: { name: 'web1', spec } });
    await makeProfile(daemon, 'web', {});
    await assertRefused(daemon, create({ profiles: ['web', 'nope'] }), 'not_found', 'spec.profiles.1');
    await assertRefused(daemon, create({ profiles: ['web', 'web'] }), 'invalid_request', 'spec.profiles.1');
    await assertRefused(daemon, create({ instanceType: 'nope' }), 'not_found', 'spec.instanceType');
    const wrong = client.profile.create({ body: { name: 'x', spec: { cpu: { count: 0 } } } });
    await assertRefused(daemon, wrong, 'invalid_request', 'spec.cpu.count');
    const noKey = { cloudInit: { sshKeys: ['ssh-ed25519 AAAA x'] } };
    const cut = client.profile.create({ body: { name: 'x', spec: noKey } });
    await assertRefused(daemon, cut, 'invalid_request', /sshAuthorizedKeys|sshKeys/);
    await assertRefused(daemon, client.profile.create({ body: { name: 'web', spec: {} } }), 'name_taken');
    await makeVm(daemon, 'web1', tiny);
    const apply = client.profile.apply({ params: { profile: 'web' }, body: { vms: ['web1'] } });
    await assertRefused(daemon, apply, 'invalid_request', 'vms.0');
  });

  test('gives up its user-data to nobody who may only read', async (t) => {
    const daemon = await daemonFor(t);
    const userData = '#cloud-config\npassword: secret\n';
    await makeProfile(daemon, 'web', { cloudInit: { userData } });
    await makeVm(daemon, 'web1', { ...tiny, profiles: ['web'] });
    const { secret } = await daemon.client.token.create({ body: { name: 'reader', role: 'viewer' } });
    atEnd(t, () => daemon.client.token.delete({ params: { token: 'reader' } }));
    const viewer = connect({ socketPath: daemon.socketPath, token: secret });
    atEnd(t, () => viewer.close());
    const { client } = viewer;
    const seen = [
      await client.profile.get({ params: { profile: 'web' } }),
      await client.profile.list(),
      await client.vm.get({ params: { vm: 'web1' } }),
      await client.vm.list(),
    ];
    for (const one of seen) {
      assert.doesNotMatch(JSON.stringify(one), /password: secret/);
      assert.match(JSON.stringify(one), /\(hidden\)/);
    }
    const back = (seen[0] as Profile).spec;
    const update = daemon.client.profile.update({ params: { profile: 'web' }, body: { spec: back } });
    await assertRefused(daemon, update, 'invalid_request', 'spec.cloudInit.userData');
  });
});

suite('an instance type', () => {
  test('is there from the start, for every project, and says how large a VM is', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const { items } = await client.instanceType.list();
    assert.deepEqual(
      items.map(({ name }) => name),
      firstTypes,
    );
    const body = { name: 'web1', project: 'team', spec: { instanceType: 'micro', nics: [] } };
    await done(daemon, client.vm.create({ body }));
    const { spec } = await client.vm.get({ params: { vm: 'web1' }, query: { project: 'team' } });
    assert.deepEqual([spec.cpu.count, spec.memoryMib, spec.instanceType], [1, 512, 'micro']);
    const other = { name: 'micro', project: 'team', spec: { cpu: { count: 2 }, memoryMib: 96 } };
    await client.instanceType.create({ body: other });
    await done(daemon, client.vm.create({ body: { ...body, name: 'web2' } }));
    const own = await client.vm.get({ params: { vm: 'web2' }, query: { project: 'team' } });
    assert.deepEqual([own.spec.cpu.count, own.spec.memoryMib], [2, 96]);
    for (const vm of ['web1', 'web2'])
      await done(daemon, client.vm.delete({ params: { vm }, query: { project: 'team' } }));
  });

  test('bears no other value beside it, and another one changes a running VM', async (t) => {
    const daemon = await daemonFor(t);
    const { client } = daemon;
    const make = (name: string, count: number, memoryMib: number): Promise<unknown> =>
      client.instanceType.create({ body: { name, spec: { cpu: { count, maxCount: 4 }, memoryMib } } });
    await make('one', 1, 64);
    await make('two', 2, 64);
    const clash = client.vm.create({ body: { name: 'web1', spec: { nics: [], instanceType: 'one', memoryMib: 65 } } });
    await assertRefused(daemon, clash, 'invalid_request', 'spec.memoryMib');
    await makeVm(daemon, 'web1', { nics: [], instanceType: 'one' }, { start: true });
    await assertRefused(daemon, change(daemon, 'web1', { memoryMib: 65 }), 'invalid_request', 'spec.memoryMib');
    await change(daemon, 'web1', { instanceType: 'two' });
    await eventually(async () => (await readVm(daemon, 'web1')).status.startedSpec?.cpu.count === 2, {
      describe: 'the second vCPU is added',
      timeoutMs: 60_000,
    });
    await assertRefused(daemon, client.instanceType.delete({ params: { instanceType: 'two' } }), 'in_use');
    const free = await change(daemon, 'web1', { instanceType: undefined });
    assert.deepEqual([free.spec.cpu.count, free.spec.instanceType, free.spec.inherited], [2, undefined, undefined]);
    await client.instanceType.delete({ params: { instanceType: 'two' } });
    await untilState(daemon, 'web1', 'running');
  });
});
