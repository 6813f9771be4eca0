// Every kind of task that the daemon has, held to the promises of tasks: each step run twice ends like once, each step
// that fails leaves everything as it was. A kind that is added to the daemon and not here fails the first test.
import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Subject } from '../../src/api/object.ts';
import { type TaskItem } from '../../src/api/task.ts';
import { groupMember } from '../../src/api/group.ts';
import { vmSpec } from '../../src/api/vm-spec.ts';
import { taskConformance, type TaskFixture } from '../../src/daemon/task/task.conformance.ts';
import { pendingItem } from '../../src/daemon/task/task-items.ts';
import { openTaskWorld, writeDisk, type TaskWorld } from '../support/task-world.ts';

/** What a task is run on, with its input beyond the id. */
interface Scene {
  target: Subject;
  input?: object;
  /** What it works on one by one. */
  items?: TaskItem[];
}

const spec = {
  memoryMib: 64,
  nics: [{ network: 'alone' }],
  disks: [{ name: 'data', sizeMib: 2 }],
};
const here: Subject = { kind: 'node', id: 'here', name: 'here', project: 'default' };
const withFirstBootData = { ...spec, cloudInit: { sshKeys: [] } };

async function madeVm(world: TaskWorld, name = 'web1'): Promise<Subject> {
  const target = await world.addVm(name, spec);
  await world.run('vm.create', target);
  return target;
}

async function runningVm(world: TaskWorld, name = 'web1'): Promise<Subject> {
  const target = await madeVm(world, name);
  await world.run('vm.start', target);
  return target;
}

async function suspendedVm(world: TaskWorld): Promise<Subject> {
  const target = await runningVm(world);
  await world.run('vm.suspend', target);
  return target;
}

/** A snapshot that was taken of a VM. Its id. */
async function withSnapshot(world: TaskWorld, target: Subject, name: string, input: object = {}): Promise<string> {
  const id = await world.addSnapshot(target, name);
  await world.run('snapshot.create', target, { snapshotIds: [id], ...input });
  return id;
}

function versionOf({ folder }: TaskWorld, vm: Subject, version: number): object {
  const firmware = join(folder, 'vms', vm.id);
  const disks = [{ name: 'data', volume: null, image: null, sizeMib: 2 }];
  return {
    version,
    vm: { id: vm.id, name: vm.name },
    snapshot: null,
    spec: vmSpec.parse(spec),
    disks,
    firmware,
    sealed: null,
  };
}

/** What a template is prepared with, from no image or from a version. */
function prepared(from: number | null): object {
  return {
    version: 1,
    vmId: '01900000-0000-7000-8000-000000000009',
    vmName: 'prepare-1',
    project: 'default',
    spec: vmSpec.parse(spec),
    image: null,
    from,
  };
}

function cloneScene({ folder }: TaskWorld, target: Subject, mode: 'linked' | 'full'): Scene {
  const copies = ['web2-1', 'web2-2'].map((name, index) => ({
    id: `01900000-0000-7000-8000-00000000000${index}`,
    name,
  }));
  const own = vmSpec.parse(withFirstBootData);
  const parent = { kind: 'vm', id: target.id, name: target.name };
  return {
    target,
    input: {
      parent,
      copies,
      project: 'default',
      labels: {},
      spec: own,
      mode,
      firmware: join(folder, 'vms', target.id),
      tpm: 'copy',
      isStarted: false,
    },
  };
}

/** A group of two stages, of VMs that are off or run. */
async function groupScene(make: (name: string) => Promise<Subject>): Promise<Scene> {
  const vms = [await make('db1'), await make('web1')];
  const members = vms.map(({ id, name }, index) => ({
    ...groupMember.parse({ vm: name, ready: { type: 'agent' } }),
    id,
    order: index + 1,
  }));
  const target: Subject = { kind: 'group', id: 'shop', name: 'shop', project: 'default' };
  return { target, input: { members, timeoutS: 0 }, items: vms.map(pendingItem) };
}

/** Sets up what each kind of task works on; one kind may have several scenes. */
const scenes: Readonly<Record<string, (world: TaskWorld) => Promise<Scene>>> = {
  'vm.create': async (world) => ({ target: await world.addVm('web1', withFirstBootData) }),
  'vm.create on an image': async (world) => {
    const path = await writeDisk(join(world.folder, 'source.raw'));
    const image = await world.addImage('base', { type: 'file', path });
    await world.run('image.create', image);
    return { target: await world.addVm('web1', { ...spec, image: 'base' }) };
  },
  'vm.create with a volume': async (world) => {
    await world.run('volume.create', await world.addVolume('shared', { description: '', format: 'raw', sizeMib: 2 }));
    return { target: await world.addVm('web1', { ...spec, disks: [{ name: 'data', volume: 'shared' }] }) };
  },
  'vm.createAndStart': async (world) => ({ target: await world.addVm('web1', spec) }),
  'vm.start': async (world) => ({ target: await madeVm(world) }),
  // Without time to shut down: what a guest has done by itself can not be undone.
  'vm.stop': async (world) => ({ target: await runningVm(world), input: { timeoutS: 0 } }),
  'vm.forceOff': async (world) => ({ target: await runningVm(world) }),
  'vm.forceOff of a suspended VM': async (world) => ({ target: await suspendedVm(world) }),
  'vm.restart': async (world) => {
    const target = await runningVm(world);
    await world.vms.update(target.id, undefined, (draft) => {
      draft.spec.memoryMib = 128;
    });
    return { target, input: { timeoutS: 0 } };
  },
  'vm.fork': async (world) => {
    const target = await runningVm(world);
    const copies = ['web1-1', 'web1-2'].map((name, index) => ({
      id: `01900000-0000-7000-8000-00000000000${index}`,
      name,
    }));
    return { target, input: { copies, isIsolated: false } };
  },
  'vm.clone': async (world) => cloneScene(world, await madeVm(world), 'linked'),
  'vm.clone of a running VM': async (world) => cloneScene(world, await runningVm(world), 'linked'),
  'vm.clone with disks of its own': async (world) => cloneScene(world, await madeVm(world), 'full'),
  'template.addVersion': async (world) => {
    const vm = await madeVm(world);
    const target = await world.addTemplate('base');
    return { target, input: versionOf(world, vm, 1) };
  },
  'template.delete': async (world) => {
    const vm = await madeVm(world);
    const target = await world.addTemplate('base');
    await world.run('template.addVersion', target, versionOf(world, vm, 1));
    return { target, input: { version: null } };
  },
  'template.seal': async (world) => {
    const target = await runningVm(world);
    const input = {
      project: 'default',
      vm: { id: target.id, name: target.name },
      snapshot: null,
      spec: vmSpec.parse(spec),
      copy: 'seal-1',
      template: { name: 'base', labels: {}, description: '' },
      hasFirstBoot: true,
      requestedBy: 'test',
    };
    return { target, input };
  },
  'template.prepare': async (world) => ({ target: await world.addTemplate('base'), input: prepared(null) }),
  'template.prepare of a version': async (world) => {
    const vm = await madeVm(world);
    const target = await world.addTemplate('base');
    await world.run('template.addVersion', target, versionOf(world, vm, 1));
    return { target, input: { ...prepared(1), version: 2 } };
  },
  'vm.createWarm': async (world) => {
    const target = await world.addTemplate('base');
    await world.run('template.prepare', target, prepared(null));
    const copies = ['web1', 'web2'].map((name, index) => ({ id: `01900000-0000-7000-8000-00000000000${index}`, name }));
    const parent = { id: target.id, name: 'base', version: 1 };
    return { target, input: { parent, copies, project: 'default', labels: {}, spec: vmSpec.parse(spec) } };
  },
  'vm.suspend': async (world) => ({ target: await runningVm(world) }),
  'vm.change': async (world) => {
    const target = await runningVm(world);
    await world.vms.update(target.id, undefined, (draft) => {
      draft.spec.memoryMib = 128;
      draft.spec.cpu.count = 2;
      const [data] = draft.spec.disks;
      draft.spec.disks = [
        { ...data!, sizeMib: 4 },
        { ...data!, name: 'more', sizeMib: 2 },
      ];
      draft.spec.nics = [...draft.spec.nics, { network: 'alone', isConnected: true }];
    });
    return { target };
  },
  'vm.change that takes out a disk and a NIC': async (world) => {
    const target = await runningVm(world);
    await world.vms.update(target.id, undefined, (draft) => {
      draft.spec.disks = [];
      draft.spec.nics = [];
    });
    return { target };
  },
  'vm.delete': async (world) => ({ target: await madeVm(world) }),
  'vm.delete of a suspended VM': async (world) => ({ target: await suspendedVm(world) }),
  'vm.forceDelete': async (world) => ({ target: await runningVm(world) }),
  'snapshot.create': async (world) => {
    const target = await madeVm(world);
    return { target, input: { snapshotIds: [await world.addSnapshot(target, 'before')] } };
  },
  'snapshot.create of a running VM': async (world) => {
    const target = await runningVm(world);
    await withSnapshot(world, target, 'first');
    return { target, input: { snapshotIds: [await world.addSnapshot(target, 'before')], quiesce: 'required' } };
  },
  'snapshot.create with memory': async (world) => {
    const target = await runningVm(world);
    return { target, input: { snapshotIds: [await world.addSnapshot(target, 'before')], withMemory: true } };
  },
  'snapshot.delete': async (world) => {
    const target = await runningVm(world);
    await withSnapshot(world, target, 'first');
    const second = await withSnapshot(world, target, 'second', { withMemory: true });
    await withSnapshot(world, target, 'third');
    return { target, input: { snapshotIds: [second] } };
  },
  'snapshot.revert': async (world) => {
    const target = await madeVm(world);
    const first = await withSnapshot(world, target, 'first');
    await withSnapshot(world, target, 'second');
    await world.run('vm.start', target);
    return { target, input: { snapshotIds: [first] } };
  },
  'snapshot.revertAndStart': async (world) => {
    const target = await runningVm(world);
    const first = await withSnapshot(world, target, 'first', { withMemory: true });
    await withSnapshot(world, target, 'second');
    return { target, input: { snapshotIds: [first] } };
  },
  'image.create': async (world) => {
    const path = await writeDisk(join(world.folder, 'source.raw'));
    return { target: await world.addImage('base', { type: 'file', path }) };
  },
  'image.create for an upload': async (world) => ({ target: await world.addImage('base', { type: 'upload' }) }),
  'image.upload': async (world) => {
    const target = await world.addImage('base', { type: 'upload' }, 'waiting-for-upload');
    const sent = await writeDisk(join(world.folder, 'sent.raw'));
    await copyFile(sent, join(world.folder, 'images', `${target.id}.upload`));
    return { target };
  },
  'image.delete': async (world) => {
    const path = await writeDisk(join(world.folder, 'source.raw'));
    const target = await world.addImage('base', { type: 'file', path });
    await world.run('image.create', target);
    return { target };
  },
  'volume.create': async (world) => ({
    target: await world.addVolume('data', { description: '', format: 'qcow2', sizeMib: 2 }),
  }),
  'volume.delete': async (world) => {
    const target = await world.addVolume('data', { description: '', format: 'qcow2', sizeMib: 2 });
    await world.run('volume.create', target);
    return { target };
  },
  'vm.act': async (world) => {
    const items = [pendingItem(await madeVm(world, 'a')), pendingItem(await madeVm(world, 'b'))];
    return { target: here, input: { key: 'one', action: { type: 'start' }, parallelism: 1 }, items };
  },
  'vm.act at once': async (world) => {
    const items = [pendingItem(await runningVm(world, 'a')), pendingItem(await runningVm(world, 'b'))];
    return { target: here, input: { key: 'one', action: { type: 'forceOff' }, parallelism: 2 }, items };
  },
  'group.start': (world) => groupScene((name) => madeVm(world, name)),
  'group.stop': (world) => groupScene((name) => runningVm(world, name)),
  'group.restart': (world) =>
    groupScene(async (name) => {
      const target = await runningVm(world, name);
      await world.vms.update(target.id, undefined, (draft) => {
        draft.spec.memoryMib = 128;
      });
      return target;
    }),
  'node.measure': async () => ({ target: here }),
  'node.stopGuests': async (world) => {
    for (const name of ['a', 'b']) await runningVm(world, name);
    return { target: here };
  },
};

function typeOf(scene: string): string {
  return scene.split(' ')[0] ?? scene;
}

test('every kind of task that the daemon runs is tested here, and no other', async () => {
  const world = await openTaskWorld();
  try {
    const registered = world.types.map(({ type }) => type).toSorted();
    assert.deepEqual([...new Set(Object.keys(scenes).map(typeOf))].toSorted(), registered);
  } finally {
    await world.close();
  }
});

for (const [name, setUp] of Object.entries(scenes)) {
  taskConformance(name, async (): Promise<TaskFixture> => {
    const world = await openTaskWorld();
    try {
      const { target, input = {}, items = [] } = await setUp(world);
      const type = world.types.find((candidate) => candidate.type === typeOf(name));
      assert.ok(type, name);
      const whole =
        target.kind === 'node' || 'parent' in input || 'copy' in input ? input : { id: target.id, ...input };
      return { type, target, input: whole, items, observe: () => world.observe(), cleanup: () => world.close() };
    } catch (error) {
      await world.close();
      throw error;
    }
  });
}
