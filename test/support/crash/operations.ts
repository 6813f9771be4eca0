// Random operations over the API, as several careless users would do them at once. Which ones follows from the seed;
// names come from small pools, so that operations meet on the same objects.
import { type LodgeClient } from '../../../src/client/client.ts';
import { type VmActionsInput } from '../../../src/api/vm-action.ts';
import { type VmSpecInput } from '../../../src/api/vm-spec.ts';
import { type Random } from './random.ts';

export interface World {
  client: LodgeClient;
  random: Random;
  driver: 'fake' | 'qemu';
  /** Only these operations, by the names of their functions in `operations.ts`. Default: all. */
  only?: readonly string[] | undefined;
  /** A small disk image on the node. */
  imagePath: string;
  /** Its content, for uploads. */
  imageBytes: Uint8Array;
  /** Names of what there was when the cycle began; VMs with their states. */
  known: {
    vms: ReadonlyMap<string, string>;
    volumes: string[];
    networks: string[];
    images: string[];
    groups: string[];
    templates: string[];
  };
}

/** An operation in words, and the call. */
export interface Operation {
  name: string;
  run: () => Promise<unknown>;
}

const vms = ['vm0', 'vm1', 'vm2', 'vm3', 'vm4', 'vm5'] as const;
const volumes = ['vol0', 'vol1', 'vol2', 'vol3'] as const;
const networks = ['net0', 'net1', 'net2'] as const;
const images = ['img0', 'img1', 'img2'] as const;
const groups = ['grp0', 'grp1'] as const;
const templates = ['tpl0', 'tpl1'] as const;
const snapshots = ['snap0', 'snap1', 'snap2'] as const;
const prefixes = ['10.201.0.0/24', '10.202.0.0/24', '10.202.0.128/25'] as const;

/** Most operations are for what there is, or for what there isn't yet; some are for anything. */
const sensible = 0.85;

function existing<Name extends string>(
  random: Random,
  pool: readonly [Name, ...Name[]],
  known: Iterable<string>,
): Name {
  const names = [...known].filter((name): name is Name => pool.includes(name as Name));
  return names.length > 0 && random.chance(sensible) ? random.pick(names as [Name, ...Name[]]) : random.pick(pool);
}

function missing<Name extends string>(random: Random, pool: readonly [Name, ...Name[]], known: Iterable<string>): Name {
  const taken = new Set(known);
  const names = pool.filter((name) => !taken.has(name));
  return names.length > 0 && random.chance(sensible) ? random.pick(names as [Name, ...Name[]]) : random.pick(pool);
}

/** Weights: most of what happens is about VMs, which have the most parts. */
const kinds: readonly (readonly [number, (world: World) => Operation])[] = [
  [22, createVm],
  [22, power],
  [14, snapshot],
  [10, deleteVm],
  [6, forkVm],
  [7, cloneVm],
  [9, template],
  [5, updateVm],
  [6, group],
  [5, actOnMany],
  [7, createVolume],
  [4, growVolume],
  [4, deleteVolume],
  [7, createNetwork],
  [4, updateNetwork],
  [4, deleteNetwork],
  [7, createImage],
  [3, uploadImage],
  [4, deleteImage],
  [3, cancelTask],
];

export function anyOperation(world: World): Operation {
  const { only, random } = world;
  return random.weighted(only ? kinds.filter(([, { name }]) => only.includes(name)) : kinds)(world);
}

/** What {@link World.only} may name. */
export const operationNames: readonly string[] = kinds.map(([, { name }]) => name);

function spec({ random, driver, known }: World): VmSpecInput {
  const network = existing(random, networks, known.networks);
  const image = existing(random, images, known.images);
  const nics = random.weighted<NonNullable<VmSpecInput['nics']>>([
    [3, []],
    [4, [{ network: 'default' }]],
    [2, [{ network }]],
    [2, [{ network: 'default' }, { network }]],
    [1, [{ network, ipv4Address: `10.201.0.${20 + random.below(4)}` }]],
  ]);
  const disks = random.weighted<NonNullable<VmSpecInput['disks']>>([
    [4, []],
    [3, [{ name: 'data', sizeMib: 1 + random.below(16) }]],
    [2, [{ name: 'data', volume: existing(random, volumes, known.volumes) }]],
    [2, [{ name: 'root', image }]],
    [
      1,
      [
        { name: 'root', image },
        { name: 'data', sizeMib: 4 },
      ],
    ],
  ]);
  return {
    nics,
    disks,
    memoryMib: 16 + random.below(4) * 8,
    stopTimeoutS: random.below(2),
    display: 'none',
    ...(driver === 'qemu' ? { machine: 'pc' as const } : {}),
    ...(random.chance(0.15) ? { cloudInit: { sshKeys: [], hostname: `guest-${random.below(100)}` } } : {}),
  };
}

function createVm(world: World): Operation {
  const { client, random, known } = world;
  const name = missing(random, vms, known.vms.keys());
  const start = random.chance(0.6);
  const body = { name, spec: spec(world) };
  return {
    name: `create VM ${name}${start ? ' and start it' : ''}`,
    run: () => client.vm.create({ body, query: { start } }),
  };
}

function forkVm({ client, random, known }: World): Operation {
  const running = [...known.vms].filter(([, state]) => state === 'running').map(([name]) => name);
  const vm = existing(random, vms, running);
  const name = missing(random, vms, known.vms.keys());
  return {
    name: `fork VM ${vm} as ${name}`,
    run: () => client.vm.fork({ params: { vm }, body: { name } }),
  };
}

function cloneVm({ client, random, known }: World): Operation {
  const vm = existing(random, vms, known.vms.keys());
  const name = missing(random, vms, known.vms.keys());
  const mode = random.chance(0.7) ? 'linked' : 'full';
  const isStarted = random.chance(0.4);
  const snapshot = random.chance(0.3) ? random.pick(snapshots) : undefined;
  return {
    name: `make ${mode} clone ${name} of ${snapshot === undefined ? '' : `snapshot ${snapshot} of `}VM ${vm}${isStarted ? ' and start it' : ''}`,
    run: () => client.vm.clone({ params: { vm }, body: { name, mode, isStarted, snapshot } }),
  };
}

function template({ client, random, known, driver }: World): Operation {
  const name = existing(random, templates, known.templates);
  const fresh = missing(random, templates, known.templates);
  const vm = existing(random, vms, known.vms.keys());
  const copy = missing(random, vms, known.vms.keys());
  // The disks of these guests have no system, so that with QEMU no agent would ever answer.
  const isSealed = driver === 'fake' && random.chance(0.3);
  const seal = isSealed ? ' and seal it' : '';
  const params = { template: name };
  const version = random.chance(0.5) ? 1 + random.below(3) : undefined;
  const isStarted = random.chance(0.4);
  const [words, run] = random.weighted<readonly [string, () => Promise<unknown>]>([
    [
      4,
      [
        `make template ${fresh} of VM ${vm}${seal}`,
        () => client.template.create({ body: { name: fresh, vm, isSealed } }),
      ],
    ],
    [
      2,
      [
        `add a version to template ${name} of VM ${vm}${seal}`,
        () => client.template.addVersion({ params, body: { vm, isSealed } }),
      ],
    ],
    [
      3,
      [
        `make VM ${copy} of template ${name}${isStarted ? ' and start it' : ''}`,
        () => client.template.deploy({ params, body: { name: copy, version, isStarted } }),
      ],
    ],
    [
      2,
      [
        `delete ${version === undefined ? '' : `version ${version} of `}template ${name}`,
        () => client.template.delete({ params, query: { version } }),
      ],
    ],
  ]);
  return { name: words, run };
}

function power({ client, random, known }: World): Operation {
  const vm = existing(random, vms, known.vms.keys());
  const params = { vm };
  const state = known.vms.get(vm) ?? 'stopped';
  const start = ['start', () => client.vm.start({ params })] as const;
  const stop = ['stop', () => client.vm.stop({ params, body: { timeoutS: random.below(2) } })] as const;
  const forceOff = ['force off', () => client.vm.forceOff({ params })] as const;
  const restart = ['restart', () => client.vm.restart({ params, body: { timeoutS: 0 } })] as const;
  const suspend = ['suspend', () => client.vm.suspend({ params })] as const;
  const pause = ['pause', () => client.vm.pause({ params })] as const;
  const resume = ['resume', () => client.vm.resume({ params })] as const;
  const reset = ['reset', () => client.vm.reset({ params })] as const;
  const isUp = state === 'running' || state === 'paused';
  const [name, run] = random.weighted<readonly [string, () => Promise<unknown>]>([
    [isUp ? 1 : 10, start],
    [isUp ? 4 : 1, stop],
    [isUp ? 2 : 1, forceOff],
    [isUp ? 3 : 1, restart],
    [isUp ? 4 : 1, suspend],
    [1, pause],
    [state === 'paused' ? 3 : 1, resume],
    [isUp ? 1 : 0, reset],
  ]);
  return { name: `${name} VM ${vm}`, run };
}

function snapshot({ client, random, known }: World): Operation {
  const vm = existing(random, vms, known.vms.keys());
  const name = random.pick(snapshots);
  const params = { vm, snapshot: name };
  const withMemory = known.vms.get(vm) === 'running' && random.chance(0.5);
  const [verb, run] = random.weighted<readonly [string, () => Promise<unknown>]>([
    [5, ['take', () => client.snapshot.create({ params: { vm }, body: { name, withMemory } })]],
    [2, ['revert to', () => client.snapshot.revert({ params, body: { force: random.chance(0.7) } })]],
    [3, ['delete', () => client.snapshot.delete({ params, query: { withChildren: random.chance(0.3) } })]],
  ]);
  return { name: `${verb} snapshot ${name} of VM ${vm}${withMemory ? ' with memory' : ''}`, run };
}

function deleteVm({ client, random, known }: World): Operation {
  const vm = existing(random, vms, known.vms.keys());
  const force = random.chance(0.7);
  return {
    name: `delete VM ${vm}${force ? ' by force' : ''}`,
    run: () => client.vm.delete({ params: { vm }, query: { force } }),
  };
}

/** Of VMs that may come and go meanwhile. */
function group({ client, random, known }: World): Operation {
  const name = random.chance(0.5) ? existing(random, groups, known.groups) : missing(random, groups, known.groups);
  const params = { group: name };
  if (!known.groups.includes(name)) {
    const members = vms
      .filter(() => random.chance(0.5))
      .map((vm) => ({
        vm,
        order: 1 + random.below(3),
        ready: { type: random.pick(['running', 'agent'] as const) },
        readyTimeoutS: 1 + random.below(2),
        ifNotReady: random.pick(['stop', 'continue'] as const),
      }))
      .filter(({ vm }) => known.vms.has(vm));
    const body = { name, spec: { members } };
    return { name: `create group ${name} of ${members.length}`, run: () => client.group.create({ body }) };
  }
  const [verb, run] = random.weighted<readonly [string, () => Promise<unknown>]>([
    [4, ['start', () => client.group.start({ params })]],
    [3, ['stop', () => client.group.stop({ params, body: { timeoutS: random.below(2) } })]],
    [2, ['restart', () => client.group.restart({ params, body: { timeoutS: 0 } })]],
    [1, ['delete', () => client.group.delete({ params })]],
  ]);
  return { name: `${verb} group ${name}`, run };
}

function actOnMany({ client, random }: World): Operation {
  const names = vms.filter(() => random.chance(0.5));
  const action = random.pick<VmActionsInput['action']>([
    { type: 'start' },
    { type: 'stop', timeoutS: 0 },
    { type: 'restart', timeoutS: 0 },
    { type: 'pause' },
    { type: 'update', labels: { round: `${random.below(9)}` } },
  ]);
  const choice = names.length > 0 ? { names: [...names] } : { all: true as const };
  const body = { action, vms: choice, parallelism: 1 + random.below(4) };
  return { name: `${action.type} ${names.join(', ') || 'all VMs'}`, run: () => client.vm.act({ body }) };
}

function updateVm(world: World): Operation {
  const { client, random, known } = world;
  const vm = existing(random, vms, known.vms.keys());
  const body = { spec: spec(world) };
  return { name: `change VM ${vm}`, run: () => client.vm.update({ params: { vm }, body }) };
}

function createVolume({ client, random, known }: World): Operation {
  const name = missing(random, volumes, known.volumes);
  const image = random.chance(0.3) ? existing(random, images, known.images) : undefined;
  const format = image === undefined && random.chance(0.3) ? 'raw' : 'qcow2';
  const volume = { format, sizeMib: image === undefined ? 1 + random.below(8) : undefined, image } as const;
  return { name: `create volume ${name}`, run: () => client.volume.create({ body: { name, spec: volume } }) };
}

function growVolume({ client, random, known }: World): Operation {
  const name = existing(random, volumes, known.volumes);
  const sizeMib = 8 + random.below(16);
  const run = async (): Promise<unknown> => {
    const { spec: before } = await client.volume.get({ params: { volume: name } });
    return client.volume.update({ params: { volume: name }, body: { spec: { ...before, sizeMib } } });
  };
  return { name: `grow volume ${name}`, run };
}

function deleteVolume({ client, random, known }: World): Operation {
  const volume = existing(random, volumes, known.volumes);
  return { name: `delete volume ${volume}`, run: () => client.volume.delete({ params: { volume } }) };
}

function createNetwork({ client, random, known }: World): Operation {
  const name = missing(random, networks, known.networks);
  const network = random.chance(0.25)
    ? ({ mode: 'user' } as const)
    : {
        ipv4Cidr: random.chance(0.6) ? random.pick(prefixes) : undefined,
        dhcp: { isEnabled: random.chance(0.8) },
        bridge: random.chance(0.4) ? `br${random.below(3)}` : undefined,
      };
  return { name: `create network ${name}`, run: () => client.network.create({ body: { name, spec: network } }) };
}

function updateNetwork({ client, random, known }: World): Operation {
  const network = existing(random, networks, known.networks);
  const change = random.weighted<Record<string, unknown>>([
    [2, { dnsDomain: `d${random.below(5)}.internal` }],
    [1, { mtu: 1400 + random.below(100) }],
    [1, { bridge: `br${random.below(3)}` }],
    [1, { ipv4Cidr: random.pick(prefixes), dhcp: { isEnabled: true } }],
    [1, { mode: 'user', bridge: undefined }],
    [1, { mode: 'nat' }],
  ]);
  const run = async (): Promise<unknown> => {
    const { spec: before } = await client.network.get({ params: { network } });
    return client.network.update({ params: { network }, body: { spec: { ...before, ...change } } });
  };
  return { name: `change network ${network}`, run };
}

function deleteNetwork({ client, random, known }: World): Operation {
  const network = existing(random, networks, known.networks);
  return { name: `delete network ${network}`, run: () => client.network.delete({ params: { network } }) };
}

function createImage({ client, random, imagePath, known }: World): Operation {
  const name = missing(random, images, known.images);
  const source = random.chance(0.3) ? ({ type: 'upload' } as const) : ({ type: 'file', path: imagePath } as const);
  return { name: `create image ${name}`, run: () => client.image.create({ body: { name, spec: { source } } }) };
}

function uploadImage({ client, random, imageBytes, known }: World): Operation {
  const image = existing(random, images, known.images);
  return { name: `upload image ${image}`, run: () => client.image.upload({ params: { image }, body: imageBytes }) };
}

function deleteImage({ client, random, known }: World): Operation {
  const image = existing(random, images, known.images);
  return { name: `delete image ${image}`, run: () => client.image.delete({ params: { image } }) };
}

function cancelTask({ client, random }: World): Operation {
  const which = random.next();
  const run = async (): Promise<unknown> => {
    const { items } = await client.task.list({ query: { filter: 'state=running' } });
    const task = items[Math.floor(which * items.length)];
    return task && client.task.cancel({ params: { task: task.id } });
  };
  return { name: 'cancel a task', run };
}
