// The daemon's tasks without the daemon: everything a task works on, in one process and one folder, with the fake driver
// and without bridges. For the tests that run each step twice and let each fail.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { uuidv7 } from 'uuidv7';
import { type Image } from '../../src/api/image.ts';
import { type Network } from '../../src/api/network.ts';
import { type Subject } from '../../src/api/object.ts';
import { vmSpec, type VmSpecInput } from '../../src/api/vm-spec.ts';
import { type Template } from '../../src/api/template.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type Volume } from '../../src/api/volume.ts';
import { EventService } from '../../src/daemon/event/event-service.ts';
import { groupTasks } from '../../src/daemon/group/group-tasks.ts';
import { ImageService, initialImageStatus } from '../../src/daemon/image/image-service.ts';
import { imageTasks } from '../../src/daemon/image/image-tasks.ts';
import { RouterNetworks } from '../../src/daemon/network/router-networks.ts';
import { makeNetworkModes } from '../../src/daemon/network/network-modes.ts';
import { NetworkService } from '../../src/daemon/network/network-service.ts';
import { initialNetworkStatus } from '../../src/daemon/network/network-status.ts';
import { measureTask, NodeMeasurements } from '../../src/daemon/node/node-measurements.ts';
import { stopGuestsTask } from '../../src/daemon/node/stop-guests.ts';
import { SnapshotRecords } from '../../src/daemon/snapshot/snapshot-records.ts';
import { forgetSnapshots } from '../../src/daemon/snapshot/snapshot-steps.ts';
import { snapshotTasks } from '../../src/daemon/snapshot/snapshot-tasks.ts';
import { Collection } from '../../src/daemon/store/collection.ts';
import { silentLog } from '../../src/daemon/store/informer.ts';
import { ReferenceLock } from '../../src/daemon/store/reference-lock.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { startEngine } from '../../src/daemon/task/task.conformance.ts';
import { type TaskEngine } from '../../src/daemon/task/task-engine.ts';
import { type TaskType } from '../../src/daemon/task/task.ts';
import { listTaskTypes } from '../../src/daemon/task-types.ts';
import { layerUse } from '../../src/daemon/vm/layer-use.ts';
import { SharedFolders } from '../../src/daemon/vm/shared-folders.ts';
import { HostSettings } from '../../src/daemon/tuning/host-settings.ts';
import { PlacementService } from '../../src/daemon/tuning/placement-service.ts';
import { UidPool } from '../../src/daemon/vm/uid-pool.ts';
import { arrangedMachine, oneSocket } from './recorded-topology.ts';
import { VmGuests } from '../../src/daemon/vm/vm-guests.ts';
import { initialVmStatus, VmRecords, vmSubject } from '../../src/daemon/vm/vm-records.ts';
import { disconnect, type VmStepParts } from '../../src/daemon/vm/vm-step.ts';
import { sealTask } from '../../src/daemon/template/seal-task.ts';
import {
  initialTemplateStatus,
  templateFirmware,
  TemplateRecords,
} from '../../src/daemon/template/template-records.ts';
import { prepareTask } from '../../src/daemon/template/template-prepare-task.ts';
import { templateTasks } from '../../src/daemon/template/template-tasks.ts';
import { vmActionTask } from '../../src/daemon/vm/vm-action-task.ts';
import { cloneTask } from '../../src/daemon/vm/vm-clone-tasks.ts';
import { forkTask } from '../../src/daemon/vm/vm-fork-tasks.ts';
import { warmTask } from '../../src/daemon/vm/vm-warm-tasks.ts';
import { vmTasks } from '../../src/daemon/vm/vm-tasks.ts';
import { LayerFiles } from '../../src/daemon/volume/layer-files.ts';
import { LayerMerging } from '../../src/daemon/volume/layer-merging.ts';
import { LayerRecords } from '../../src/daemon/volume/layer-records.ts';
import { VolumeLayers, type LayerUse } from '../../src/daemon/volume/volume-layers.ts';
import { VolumeFiles } from '../../src/daemon/volume/volume-files.ts';
import { initialVolumeStatus, VolumeService } from '../../src/daemon/volume/volume-service.ts';
import { volumeTasks } from '../../src/daemon/volume/volume-tasks.ts';
import { FakeDriver } from '../../src/drivers/fake/fake-driver.ts';
import { type FakeProcess } from '../../src/drivers/fake/fake-guest.ts';
import { type Cleanup } from './cleanup.ts';
import { temporaryFolder } from './temporary.ts';

/** Without a bridge there is nothing to filter. */
class NoRouterNetworks extends RouterNetworks {
  override ensureFirewall(): Promise<string[]> {
    return Promise.resolve([]);
  }
}

export interface TaskWorld {
  folder: string;
  types: readonly TaskType[];
  driver: FakeDriver;
  vms: Collection<Vm>;
  volumes: Collection<Volume>;
  images: Collection<Image>;
  snapshots: SnapshotRecords;
  /** Makes a VM object as the API would, before any task has worked on it. */
  addVm(name: string, spec: VmSpecInput): Promise<Subject>;
  addVolume(name: string, spec: Volume['spec']): Promise<Subject>;
  addTemplate(name: string): Promise<Subject>;
  /** Makes a snapshot object as the API would. Its id. */
  addSnapshot(vm: Subject, name: string): Promise<string>;
  addImage(name: string, source: Image['spec']['source'], state?: Image['status']['state']): Promise<Subject>;
  /** Runs a task of the world's own to its end. */
  run(type: string, target: Subject, input?: object): Promise<void>;
  /** All there is, without ids and times, and without what was only asked for. */
  observe(): Promise<unknown>;
  close(): Promise<void>;
}

/** Makes an empty world, but for a network of mode user. */
export async function openTaskWorld(): Promise<TaskWorld> {
  const undo: (() => unknown)[] = [];
  const test: Cleanup = { after: (work) => void undo.push(work as () => unknown) };
  const folder = await temporaryFolder(test);
  for (const name of ['vms', 'images', 'volumes', 'networks', 'fake-guests'])
    await mkdir(join(folder, name), { mode: 0o711 });
  const store = await SqliteStore.open({ file: join(folder, 'lodge.db') });
  const collection = async <Item extends Vm | Image | Volume | Network | Template>(
    noun: string,
    initialStatus: (part: { createdAt: string }) => Item['status'],
  ): Promise<Collection<Item>> => {
    const made = new Collection<Item>({ store, noun, plural: `${noun}s`, initialStatus });
    await made.load();
    return made;
  };
  const vms = await collection<Vm>('vm', ({ createdAt }) => initialVmStatus(createdAt));
  const images = await collection<Image>('image', initialImageStatus);
  const volumes = await collection<Volume>('volume', initialVolumeStatus);
  const networks = await collection<Network>('network', initialNetworkStatus);
  const templates = await collection<Template>('template', initialTemplateStatus);
  const events = new EventService(store, silentLog);
  const driver = new FakeDriver({ directory: join(folder, 'fake-guests') });
  const records = new VmRecords(vms);
  const references = new ReferenceLock();
  const modes = makeNetworkModes('tasks', join(folder, 'networks'));
  const networkService = new NetworkService({
    networks,
    events,
    log: silentLog,
    modes: { ...modes, routed: new NoRouterNetworks('tasks', join(folder, 'networks'), modes.taps) },
    references,
    vms: () => vms.all(),
    checkIntervalMs: 3_600_000,
    onLeases: async () => {},
  });
  const image = imageTasks({ images, directory: join(folder, 'images'), cacheDirectory: join(folder, 'cache') });
  const volume = volumeTasks(() => volumeService);
  const imageService: ImageService = new ImageService({
    images,
    get engine() {
      return engine;
    },
    tasks: image,
    directory: join(folder, 'images'),
    references,
    log: silentLog,
    vms: () => vms.all(),
    volumes: () => volumes.all(),
    isNeededByLayers: (imageId) => layers.usesImage(imageId),
  });
  const layerRecords = new LayerRecords(store, silentLog);
  await layerRecords.load();
  const snapshotRecords = new SnapshotRecords(store, silentLog);
  await snapshotRecords.load();
  const layerFiles = new LayerFiles(join(folder, 'volumes'));
  const useOf = (volumeId: string): LayerUse => layerUse({ volumes, vms, guests }, volumeId);
  const layers = new VolumeLayers({
    records: layerRecords,
    files: layerFiles,
    imageLayer: (id) => imageService.diskLayer(id),
    useOf,
    volume: (id) => volumes.get(id),
    log: silentLog,
  });
  const merging = new LayerMerging({ store: layers, records: layerRecords, files: layerFiles, useOf, log: silentLog });
  const volumeService: VolumeService = new VolumeService({
    volumes,
    images: imageService,
    get engine() {
      return engine;
    },
    tasks: volume,
    files: new VolumeFiles(),
    layers,
    directory: join(folder, 'volumes'),
    node: 'here',
    references,
    vms: () => vms.all(),
  });
  const guests = new VmGuests({
    records,
    events,
    log: silentLog,
    disconnect: (vm) => disconnect({ networks: networkService }, vm),
    onEnd: () => {},
    onUnaskedEnd: () => {},
    serialLog: async () => new Uint8Array(),
    onDevices: () => {},
  });
  const placements = new PlacementService({
    records,
    guestOf: (id) => guests.get(id),
    events,
    node: () => ({ id: 'here', name: 'here', project: 'default', spec: { acceptsGuests: true } }),
    machine: arrangedMachine(oneSocket),
    settings: new HostSettings({ hasRealGuests: () => false, read: () => [], write: async () => {} }),
    log: silentLog,
  });
  const parts: VmStepParts = {
    images: imageService,
    volumes: volumeService,
    networks: networkService,
    shaping: { shapeNew: async () => {} },
    firewall: { checkNic: () => {} },
    directory: join(folder, 'vms'),
    hasUefi: async () => true,
    hasVirtiofs: async () => true,
    sharedFolders: new SharedFolders({ allowedRoots: [], forbidden: [] }),
    nodeSize: () => ({ vcpus: 4, memoryMib: 4096 }),
    acceleratorFor: async () => 'tcg' as const,
    records,
    guests,
    driver,
    events,
    uids: new UidPool(1_950_000_000),
    node: 'here',
    placements,
    forgetSnapshots: (vmId) => forgetSnapshots({ volumes: volumeService, snapshots: snapshotRecords }, vmId),
  };
  const vm = vmTasks(parts);
  const fork = forkTask(parts);
  const clone = cloneTask({
    ...parts,
    start: (one, requestedBy) =>
      engine.submit(vm.start, { target: vmSubject(one), input: { id: one.id }, requestedBy }),
    requestedBy: () => 'test',
  });
  const stopGuests = stopGuestsTask({
    engine: () => engine,
    vms: () => vms.all(),
    stop: (one) =>
      engine.submit(vm.stop, { target: vmSubject(one), input: { id: one.id, timeoutS: 0 }, requestedBy: 'test' }),
    stoppedBefore: () => [],
    cancelStarts: async () => {},
  });
  const snapshotParts = Object.assign(Object.create(parts) as VmStepParts, {
    snapshots: snapshotRecords,
    merging: () => merging,
  });
  const snapshot = snapshotTasks(snapshotParts);
  const templateRecords = new TemplateRecords(templates, store);
  const templatesDirectory = join(folder, 'templates');
  const templateParts = Object.assign(Object.create(parts) as VmStepParts, {
    templates: templateRecords,
    templatesDirectory,
  });
  const template = templateTasks(templateParts);
  const prepare = prepareTask(templateParts, { quietMs: 0 });
  const warm = warmTask(
    Object.assign(Object.create(parts) as VmStepParts, {
      prepared: async (id: string, version: number) => {
        const origin = await templateRecords.origin(id, version);
        if (!origin?.warm) return null;
        const { memory, status } = origin.warm;
        const firmware = templateFirmware({ templatesDirectory }, id, version);
        return { memory, status, disks: origin.disks, layers: origin.layers, firmware, seed: null };
      },
      noteDamage: async () => {},
    }),
  );
  const seal = sealTask({
    engine: () => engine,
    records,
    guests,
    templates: () => ({
      copyToSeal: ({ vm: of, project, copy, spec }) =>
        engine.submit(clone, {
          target: { kind: 'vm', id: of.id, name: of.name, project },
          input: {
            parent: { kind: 'vm', ...of },
            copies: [{ id: uuidv7(), name: copy }],
            project,
            labels: {},
            spec,
            mode: 'linked',
            firmware: join(folder, 'vms', of.id),
            tpm: 'new',
            isStarted: false,
          },
          requestedBy: 'test',
        }),
      keepSealed: async ({ vm: of, project, spec }, copy, sealed) => {
        const made = await templates.create({ name: 'base', project, labels: {}, spec: { description: '' } });
        const disks = copy.status.disks.map(({ name, sizeMib }) => ({ name, volume: null, image: null, sizeMib }));
        const firmware = join(folder, 'vms', copy.id);
        return engine.submit(template.addVersion, {
          target: { kind: 'template', id: made.id, name: made.name, project },
          input: {
            id: made.id,
            version: 1,
            vm: { id: copy.id, name: of.name },
            snapshot: null,
            spec,
            disks,
            firmware,
            sealed,
          },
          requestedBy: 'test',
        });
      },
    }),
    vms: () => ({
      start: (one) => engine.submit(vm.start, { target: vmSubject(one), input: { id: one.id }, requestedBy: 'test' }),
      stop: (one) =>
        engine.submit(vm.stop, { target: vmSubject(one), input: { id: one.id, timeoutS: 0 }, requestedBy: 'test' }),
      delete: (one) =>
        engine.submit(vm.forceDelete, { target: vmSubject(one), input: { id: one.id }, requestedBy: 'test' }),
    }),
  });
  const act = vmActionTask({
    engine: () => engine,
    vm: (id) => vms.get(id),
    act: (one, action, parentId) => {
      const type = action.type === 'start' ? vm.start : vm.forceOff;
      return engine.submit(type, { target: vmSubject(one), input: { id: one.id }, requestedBy: 'test', parentId });
    },
  });
  const group = groupTasks({
    engine: () => engine,
    events,
    group: () => null,
    vm: (id) => vms.get(id),
    guest: (id) => guests.get(id),
    addresses: () => [],
    start: (one, parentId) =>
      engine.submit(vm.start, { target: vmSubject(one), input: { id: one.id }, requestedBy: 'test', parentId }),
    stop: (one, timeoutS, parentId) =>
      engine.submit(vm.stop, {
        target: vmSubject(one),
        input: { id: one.id, timeoutS },
        requestedBy: 'test',
        parentId,
      }),
    onDone: async () => {},
  });
  const measurements = new NodeMeasurements(store);
  const types = listTaskTypes({
    vm,
    clone,
    template: { ...template, prepare, seal, createWarm: warm },
    fork,
    image,
    volume,
    snapshot,
    act,
    group,
    node: {
      stopGuests,
      measure: measureTask({
        driver,
        measurements,
        node: () => ({ id: 'here', kernel: '6.18.1', hypervisor: 'fake 1.0', processor: 'none' }),
      }),
    },
  });
  const engine: TaskEngine = await startEngine(store, types);
  await networks.create({
    name: 'alone',
    project: 'default',
    labels: {},
    spec: {
      description: '',
      mode: 'user',
      hasHost: true,
      dhcp: { isEnabled: true, leaseTimeS: 3600 },
      dnsDomain: 'lodge.internal',
      confirmTimeoutS: 30,
      mtu: 1500,
    },
  });
  const subject = (kind: Subject['kind'], { id, name, project }: Vm | Volume | Image | Template): Subject => ({
    kind,
    id,
    name,
    project,
  });
  const common = { project: 'default', labels: {} };
  return {
    folder,
    types,
    driver,
    vms,
    volumes,
    images,
    snapshots: snapshotRecords,
    addVm: async (name, spec) => subject('vm', await vms.create({ ...common, name, spec: vmSpec.parse(spec) })),
    addVolume: async (name, spec) => subject('volume', await volumes.create({ ...common, name, spec })),
    addImage: async (name, source, state = 'pending') =>
      subject(
        'image',
        await images.create({
          ...common,
          name,
          spec: { description: '', os: 'linux', minMemoryMib: 0, source },
          status: { ...initialImageStatus(), state },
        }),
      ),
    run: async (name, target, input = {}) => {
      const type = types.find((candidate) => candidate.type === name);
      if (!type) throw new Error(`there is no task ${name}`);
      const { id } = await engine.submit(type, { target, input: { id: target.id, ...input }, requestedBy: 'test' });
      const ended = await engine.wait(id, { timeoutMs: 30_000 });
      if (ended.state !== 'succeeded') throw new Error(`${name}: ${ended.error?.message}`);
      await records.releaseTask(target.id, id);
    },
    addTemplate: async (name) =>
      subject('template', await templates.create({ ...common, name, spec: { description: '' } })),
    addSnapshot: async (vm, name) => {
      const { id } = await snapshotRecords.collection.create({
        name,
        project: vm.id,
        labels: {},
        spec: { description: '' },
      });
      return id;
    },
    observe: async () => {
      // What nobody needs any more goes in the background.
      for (const treeId of new Set([...layerRecords.all()].map((layer) => layer.treeId)))
        await merging.run(treeId, { signal: AbortSignal.timeout(30_000) });
      return {
        ...(await observe(folder, { vms, volumes, images, snapshots: snapshotRecords })),
        templates: [...templates.all()]
          .map(({ name, status }) => [name, status.state, status.versions.length])
          .filter(([, state]) => state !== 'pending'),
        measured: (await measurements.list('here')).map(({ processor, rungs }) => [processor, rungs.length]),
        held: [...layerRecords.all()].flatMap(({ holders }) => holders.map(({ kind }) => kind)),
      };
    },
    close: async () => {
      await engine.stop();
      await merging.close();
      await networkService.close();
      guests.release();
      await driver.close();
      for (const each of [vms, images, volumes, networks, templates, layerRecords, snapshotRecords]) await each.close();
      await store.close();
      for (let next = undo.pop(); next !== undefined; next = undo.pop()) await next();
    },
  };
}

interface Objects {
  vms: Collection<Vm>;
  volumes: Collection<Volume>;
  images: Collection<Image>;
  snapshots: SnapshotRecords;
}

async function observe(folder: string, { vms, volumes, images, snapshots }: Objects): Promise<object> {
  const names = new Map<string, string>();
  for (const { id, name } of [...vms.all(), ...volumes.all(), ...images.all(), ...snapshots.collection.all()])
    names.set(id, name);
  const named = (text: string): string =>
    text.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, (id) => names.get(id) ?? 'of nobody');
  const files = (await readdir(folder, { recursive: true, withFileTypes: true }))
    // A console's log is kept whatever becomes of the start that wrote it; an upload that failed is sent again; a guest
    // that runs writes down what it is whenever it likes, under another name first.
    .filter((entry) => entry.isFile() && !/^(lodge\.db.*|serial\.log|.*\.upload|.*\.json\.new)$/.test(entry.name))
    .map((entry) => named(join(entry.parentPath, entry.name).slice(folder.length)));
  const guests: Record<string, unknown> = {};
  for (const file of await readdir(join(folder, 'fake-guests'))) {
    if (!file.endsWith('.json')) continue;
    const text = await readFile(join(folder, 'fake-guests', file), 'utf8');
    const { state, hardware } = JSON.parse(text) as FakeProcess;
    const { vcpus, memoryMib, disks, nics } = hardware;
    const names = disks.map((disk) => `${disk.name} ${disk.sizeMib ?? ''}`).toSorted();
    guests[named(file)] = [state, vcpus, memoryMib, names, nics.length];
  }
  return {
    vms: [...vms.all()]
      // One that is only asked for goes when its creation is undone: for who asked, it was never there.
      .filter(({ status }) => status.state !== 'creating')
      .map(({ name, status }) => ({
        name,
        state: status.state,
        startedMib: status.startedSpec?.memoryMib ?? null,
        disks: status.disks.map((disk) => [disk.name, named(disk.volume ?? '-'), disk.sizeMib].join(' ')).toSorted(),
        nics: status.nics.length,
      })),
    volumes: [...volumes.all()]
      .filter(({ status }) => status.state !== 'pending')
      .map(({ name, status }) =>
        [name, status.state, status.virtualSizeMib, status.usedBy?.name, status.isOwnedByVm].join(' '),
      )
      .toSorted(),
    snapshots: [...snapshots.collection.all()]
      .filter(({ status }) => status.state !== 'creating')
      .map(({ name, project, status }) =>
        [
          name,
          status.state,
          status.consistency,
          status.disks.length,
          status.memoryChecksum,
          named(status.parentId ?? '-'),
          snapshots.currentOf(project)?.name === name,
        ].join(' '),
      )
      .toSorted(),
    images: [...images.all()]
      .filter(({ status }) => status.state !== 'pending')
      .map(({ name, status }) => [name, status.state, status.kind, status.virtualSizeMib]),
    guests,
    files: files.toSorted(),
  };
}

/** A disk image of 2 MiB with a boot sector, at a path in the world's folder. */
export async function writeDisk(path: string): Promise<string> {
  const content = Buffer.alloc(2 * 2 ** 20);
  content.writeUInt16LE(0xaa55, 510);
  await writeFile(path, content);
  return path;
}
