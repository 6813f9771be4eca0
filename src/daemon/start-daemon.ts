// The daemon: everything is put together here.
//
// Order of the start: configuration ─▶ store ─▶ what is known (collections) ─▶ this machine ─▶ guests of the last daemon
// are taken over ─▶ the API answers ─▶ networks, interrupted tasks, autostart. It stops in the opposite order; guests run on.
import { readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type Logger } from 'pino';
import { type Subject } from '../api/object.ts';
import { type Vm } from '../api/vm.ts';
import { liveVmStates } from '../api/vm-state.ts';
import { type Driver } from '../drivers/driver.ts';
import { cacheDir } from '../host/image/cache.ts';
import { changeSources } from './change-sources.ts';
import { type Config } from './config.ts';
import { openAuthority } from './credentials/authority.ts';
import { sessionHandlers } from './credentials/session-handlers.ts';
import { SessionService } from './credentials/session-service.ts';
import { tokenHandlers } from './credentials/token-handlers.ts';
import { TokenService } from './credentials/token-service.ts';
import { eventHandlers } from './event/event-handlers.ts';
import { EventService } from './event/event-service.ts';
import { IdempotencyRecords } from './http/idempotency.ts';
import { configuredLimits } from './http/limits.ts';
import { ConsoleFiles } from './http/console-files.ts';
import { documentFiles } from './http/documents.ts';
import { startHttp, type HttpServer } from './http/server.ts';
import { Firewall } from './firewall/open-firewall.ts';
import { makeFolders } from './folders.ts';
import { groupHandlers } from './group/group-handlers.ts';
import { GroupService } from './group/group-service.ts';
import { groupTasks } from './group/group-tasks.ts';
import { hostAddresses } from './group/host-addresses.ts';
import { imageHandlers } from './image/image-handlers.ts';
import { ImageService } from './image/image-service.ts';
import { imageTasks } from './image/image-tasks.ts';
import { endOrphanPrograms } from './orphan-programs.ts';
import { openMetrics } from './metrics/open-metrics.ts';
import { openObjects } from './objects.ts';
import { networkHandlers } from './network/network-handlers.ts';
import { makeNetworkModes } from './network/network-modes.ts';
import { NetworkService } from './network/network-service.ts';
import { nodeHandlers } from './node/node-handlers.ts';
import { NodeService } from './node/node-service.ts';
import { openNodeTasks } from './node/node-tasks.ts';
import { SharedFolders } from './vm/shared-folders.ts';
import { instanceTypeHandlers, profileHandlers } from './profile/source-handlers.ts';
import { sourceServices } from './profile/source-service.ts';
import { serverHandlers, type DaemonPhase } from './server/server-handlers.ts';
import { snapshotHandlers } from './snapshot/snapshot-handlers.ts';
import { SnapshotRecords } from './snapshot/snapshot-records.ts';
import { SnapshotService } from './snapshot/snapshot-service.ts';
import { type SnapshotStepParts } from './snapshot/snapshot-steps.ts';
import { snapshotTasks } from './snapshot/snapshot-tasks.ts';
import { recordForms } from './record-forms.ts';
import { ReferenceLock } from './store/reference-lock.ts';
import { SqliteStore } from './store/sqlite.ts';
import { upgradeRecords } from './store/upgrade.ts';
import { taskHandlers } from './task/task-handlers.ts';
import { TaskEngine } from './task/task-engine.ts';
import { templateHandlers } from './template/template-handlers.ts';
import { Templates } from './template/open-templates.ts';
import { listTaskTypes } from './task-types.ts';
import { Balloons } from './tuning/balloons.ts';
import { openPlacements } from './tuning/open-placements.ts';
import { ConsoleTickets } from './vm/console-tickets.ts';
import { type DefinitionParts } from './vm/definition.ts';
import { openReach } from './vm/open-reach.ts';
import { layerUse } from './vm/layer-use.ts';
import { UidPool } from './vm/uid-pool.ts';
import { UsageSampler } from './vm/usage-sampler.ts';
import { VmGuests } from './vm/vm-guests.ts';
import { LiveChanges } from './vm/live-changes.ts';
import { vmHandlers } from './vm/vm-handlers.ts';
import { VmRecords } from './vm/vm-records.ts';
import { VmService } from './vm/vm-service.ts';
import { disconnect, type VmStepParts } from './vm/vm-step.ts';
import { VmSupervisor } from './vm/vm-supervisor.ts';
import { CloneIdentity } from './vm/clone-identity.ts';
import { vmActionTask } from './vm/vm-action-task.ts';
import { VmActions } from './vm/vm-actions.ts';
import { cloneTask } from './vm/vm-clone-tasks.ts';
import { VmCloning } from './vm/vm-cloning.ts';
import { forkTask } from './vm/vm-fork-tasks.ts';
import { vmTasks } from './vm/vm-tasks.ts';
import { LayerFiles } from './volume/layer-files.ts';
import { LayerMerging } from './volume/layer-merging.ts';
import { LayerRecords } from './volume/layer-records.ts';
import { VolumeLayers, type LayerUse } from './volume/volume-layers.ts';
import { volumeHandlers } from './volume/volume-handlers.ts';
import { VolumeFiles } from './volume/volume-files.ts';
import { VolumeService } from './volume/volume-service.ts';
import { volumeTasks } from './volume/volume-tasks.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

/** A running daemon. */
export interface Daemon {
  /** Ends everything but the guests, which run on. */
  stop(): Promise<void>;
}

/** Starts it; the API answers when this has returned, while the last of the start goes on behind it. */
export async function startDaemon(config: Config, driver: Driver, log: Logger): Promise<Daemon> {
  let phase: DaemonPhase = 'starting';
  const folders = await makeFolders(config);

  const store = await SqliteStore.open({ file: join(config.dataDir, 'lodge.db') });
  await upgradeRecords(store, recordForms, log);
  const objects = openObjects(store, log);
  const {
    nodeObjects,
    vmObjects,
    imageObjects,
    volumeObjects,
    networkObjects,
    templateObjects,
    groupObjects,
    sources,
  } = objects;
  const events = new EventService(store, log);
  const layerRecords = new LayerRecords(store, log);
  const snapshotRecords = new SnapshotRecords(store, log);
  await Promise.all([
    ...objects.all.map((each) => each.load()),
    events.load(),
    layerRecords.load(),
    snapshotRecords.load(),
  ]);

  const records = new VmRecords(vmObjects);
  const nodes = new NodeService({
    instance: config.instance,
    nodes: nodeObjects,
    driver,
    log,
    dataDir: config.dataDir,
    version,
    vms: () => vmObjects.all(),
  });
  const { hasRebooted } = await nodes.start();

  const nodeSubject = (): Subject => ({
    kind: 'node',
    id: nodes.self.id,
    name: nodes.name,
    project: nodes.self.project,
  });
  const references = new ReferenceLock();
  const imageJobs = imageTasks({ images: imageObjects, directory: folders.images, cacheDirectory: cacheDir() });
  const volumeJobs = volumeTasks(() => volumes);
  const modes = makeNetworkModes(config.instance, folders.networks);
  const firewall = new Firewall({
    objects,
    instance: config.instance,
    modes,
    references,
    events,
    log,
    node: nodeSubject,
    checkIntervalMs: config.networks.checkIntervalS * 1000,
  });
  const networks = new NetworkService({
    networks: networkObjects,
    events,
    log,
    modes,
    references,
    vms: () => vmObjects.all(),
    checkIntervalMs: config.networks.checkIntervalS * 1000,
    onLeases: (leases, all) => {
      firewall.setLeases(all);
      return guests.facts.setLeases(leases);
    },
  });
  const cloneIdentity = new CloneIdentity({ records, events, log });
  const guests: VmGuests = new VmGuests({
    records,
    events,
    log,
    disconnect: (vm) => disconnect({ networks }, vm),
    onEnd: () => {
      networks.planMembersChanged();
      merging.planAll();
    },
    onUnaskedEnd: (vm, exit) => supervisor.considerRestart(vm, exit),
    onAnswer: (id, guest) => cloneIdentity.consider(id, guest),
    serialLog: async (id, maxBytes) =>
      (await driver.serialLog({ id, directory: join(folders.vms, id) }, maxBytes)).bytes,
    onDevices: (id) => void live.goOn(id, true),
  });
  const reach = openReach({ objects, modes, records, guests, events, log, config, service: () => vmService });
  const placements = openPlacements({ records, guests: () => guests, events, nodes, log });
  const definitionParts: DefinitionParts = {
    get images() {
      return images;
    },
    get volumes() {
      return volumes;
    },
    networks,
    shaping: reach.shaping,
    firewall: firewall.service,
    directory: folders.vms,
    hasUefi: () => nodes.hasCapability('uefi'),
    hasVirtiofs: () => nodes.hasCapability('virtiofs'),
    sharedFolders: new SharedFolders({
      allowedRoots: config.sharedFolders.allowedRoots,
      forbidden: [config.dataDir, config.runDir, config.logDir],
    }),
    nodeSize: () => nodes.size(),
    acceleratorFor: async ({ accelerator }) => {
      if (accelerator !== 'auto') return accelerator;
      const known = nodes.self.status.driver.version === null ? await nodes.inspect() : nodes.self;
      return known.status.accelerator?.chosen ?? 'tcg';
    },
  };
  const stepParts: VmStepParts = Object.assign(Object.create(definitionParts) as DefinitionParts, {
    records,
    guests,
    driver,
    events,
    uids: new UidPool(config.qemu.uidBase),
    node: nodes.name,
    placements,
    forgetSnapshots: (vmId: string) => snapshots.forget(vmId),
  });
  const vmJobs = vmTasks(stepParts);
  const fork = forkTask(stepParts);
  const snapshotParts: SnapshotStepParts = Object.assign(Object.create(stepParts) as VmStepParts, {
    snapshots: snapshotRecords,
    merging: () => merging,
  });
  const snapshotJobs = snapshotTasks(snapshotParts);
  const clone = cloneTask(
    Object.assign(Object.create(stepParts) as VmStepParts, {
      start: (vm: Vm, requestedBy: string) => vmService.start(vm, requestedBy),
      requestedBy: (taskId: string) => engine.require(taskId).requestedBy,
    }),
  );
  const templating: Templates = new Templates({
    steps: stepParts,
    objects: templateObjects,
    store,
    directory: folders.templates,
    later: () => ({ engine, cloning, vms: vmService, nodes, references, sources, log }),
  });
  const act = vmActionTask({
    engine: () => engine,
    vm: (id) => vmObjects.get(id),
    act: (vm, action, parentId) => actions.actOnOne(vm, action, requesterOf(parentId), parentId),
  });
  const requesterOf = (taskId: string): string => engine.require(taskId).requestedBy;
  const groupJobs = groupTasks({
    engine: () => engine,
    events,
    group: (id) => groups.get(id),
    vm: (id) => vmObjects.get(id),
    guest: (id) => guests.get(id),
    addresses: (vm) => hostAddresses(vm.status.nics, (name) => networks.find(vm.project, name)?.status ?? null),
    start: (vm, parentId) => vmService.start(vm, requesterOf(parentId), { parentId }),
    stop: (vm, timeoutS, parentId) => vmService.stop(vm, timeoutS, requesterOf(parentId), parentId),
    onDone: (id) => groups.refresh(id),
  });
  const nodeJobs = openNodeTasks(store, driver, nodes, {
    engine: () => engine,
    vms: () => vmObjects.all(),
    stop: (vm) => vmService.stop(vm, undefined, 'lodge'),
    stoppedBefore: (id) => groups.stoppedBefore(id),
    cancelStarts: () => groups.cancelStarts(),
  });
  const engine = new TaskEngine({
    store,
    types: listTaskTypes({
      vm: vmJobs,
      clone,
      template: templating.tasks,
      fork,
      image: imageJobs,
      volume: volumeJobs,
      snapshot: snapshotJobs,
      act,
      group: groupJobs,
      node: nodeJobs,
    }),
    node: nodes.name,
    log,
  });
  await engine.load();
  const images: ImageService = new ImageService({
    images: imageObjects,
    engine,
    tasks: imageJobs,
    directory: folders.images,
    references,
    log,
    vms: () => vmObjects.all(),
    volumes: () => volumeObjects.all(),
    isNeededByLayers: (imageId) => layers.usesImage(imageId),
  });
  const layerFiles = new LayerFiles(folders.volumes);
  const useOf = (volumeId: string): LayerUse => layerUse({ volumes: volumeObjects, vms: vmObjects, guests }, volumeId);
  const layers = new VolumeLayers({
    records: layerRecords,
    files: layerFiles,
    imageLayer: (id) => images.diskLayer(id),
    useOf,
    volume: (id) => volumeObjects.get(id),
    log,
  });
  const merging = new LayerMerging({ store: layers, records: layerRecords, files: layerFiles, useOf, log });
  const volumes: VolumeService = new VolumeService({
    volumes: volumeObjects,
    images,
    engine,
    tasks: volumeJobs,
    files: new VolumeFiles(),
    layers,
    directory: folders.volumes,
    node: nodes.name,
    references,
    vms: () => vmObjects.all(),
  });
  const snapshots = new SnapshotService({
    records: snapshotRecords,
    engine,
    tasks: snapshotJobs,
    steps: snapshotParts,
  });
  const live: LiveChanges = new LiveChanges({ images, records, guests, engine, tasks: vmJobs, nodes, log });
  const vmService: VmService = new VmService(
    Object.assign(Object.create(definitionParts) as DefinitionParts, {
      records,
      guests,
      driver,
      engine,
      tasks: vmJobs,
      forkTask: fork,
      events,
      nodes,
      references,
      sources,
      live,
      ...reach,
      placements,
    }),
  );
  const actions: VmActions = new VmActions({
    records,
    service: vmService,
    snapshots,
    engine,
    task: act,
    node: nodeSubject,
  });
  const { statuses, profiles, instanceTypes } = sourceServices({
    sources,
    references,
    vms: vmObjects,
    takeOver: (vm, requestedBy) => vmService.takeOver(vm, requestedBy),
    log,
  });
  const cloning = new VmCloning({
    directory: folders.vms,
    records,
    volumes,
    engine,
    nodes,
    references,
    task: clone,
    snapshots,
    check: (vm) => vmService.checkNew(vm),
  });
  const groups: GroupService = new GroupService({
    groups: groupObjects,
    vms: vmObjects,
    engine,
    tasks: groupJobs,
    events,
    references,
    log,
  });
  const supervisor: VmSupervisor = new VmSupervisor({
    directory: folders.vms,
    records,
    guests,
    driver,
    engine,
    events,
    service: vmService,
    live,
    startGroups: (wanted) => groups.autostart(wanted, 'lodge'),
    log,
  });

  const adoption = await supervisor.adoptAll(hasRebooted);
  log.info({ ...adoption, hasRebooted }, 'guests of the last daemon were looked for');
  placements.start();
  const balloons = new Balloons({ records, guests, log });
  balloons.start();
  const orphans = await endOrphanPrograms(config.dataDir);
  if (orphans.length > 0) log.info({ orphans }, 'programs that the last daemon had left running were ended');
  await images.recover(await readdir(folders.images));
  await volumes.recover();
  await snapshots.recover();
  await templating.service.recover();
  await groups.begin();
  await networks.prepare();
  await instanceTypes.makeFirst(sources.instanceTypes);
  await statuses.start();

  const tokens = new TokenService(store, log);
  const sessions = new SessionService(store, tokens, log);
  const authority = config.listen
    ? await openAuthority({
        folder: join(config.dataDir, 'tls'),
        instance: config.instance,
        hostnames: config.hostnames,
        log,
      })
    : null;
  authority?.watch();
  const { metrics, history, sampler } = openMetrics({
    directory: join(config.dataDir, 'metrics'),
    vms: vmObjects,
    guests,
    nodes,
    revision: () => store.revision(),
    log,
  });
  let server: HttpServer | null = null;
  server = await startHttp({
    handlers: {
      server: serverHandlers({
        version,
        instance: config.instance,
        node: () => nodes.name,
        problems: () => nodes.self.status.problems,
        revision: () => store.revision(),
        caCertificate: authority?.certificate ?? null,
        httpsAddress: () => server?.httpsAddress ?? null,
        httpsAddresses: () => server?.httpsAddresses ?? [],
        metrics,
        phase: () => phase,
      }),
      node: nodeHandlers(nodes, nodeObjects, { engine, tasks: nodeJobs, history }),
      vm: vmHandlers({
        service: vmService,
        cloning,
        actions,
        records,
        driver,
        tickets: new ConsoleTickets(),
        tunnels: reach.tunnels,
        traffic: reach.traffic,
        usage: new UsageSampler(records, guests),
        volumes,
        history,
        placements,
        createWarm: (given, requestedBy) => templating.warm.create(given, requestedBy),
      }),
      image: imageHandlers(images, imageObjects),
      volume: volumeHandlers(volumes, volumeObjects),
      template: templateHandlers(templating),
      profile: profileHandlers(profiles, sources),
      instanceType: instanceTypeHandlers(instanceTypes, sources),
      snapshot: snapshotHandlers(snapshots, snapshotRecords, vmService),
      group: groupHandlers(groups, groupObjects),
      network: networkHandlers(networks, networkObjects, firewall.service),
      ...firewall.handlers(),
      task: taskHandlers(engine),
      event: eventHandlers({
        store,
        events,
        sources: changeSources({ objects, snapshots, firewall, groups, events, engine }),
      }),
      token: tokenHandlers(tokens),
      session: sessionHandlers(sessions),
    },
    authenticate: (secret) => tokens.authenticate(secret),
    authenticateSession: (secret) => sessions.authenticate(secret),
    log,
    listen: {
      socket: { path: config.socketPath, group: config.socketGroup },
      ...(config.listen && authority ? { https: { ...config.listen, credentials: authority } } : {}),
    },
    idempotency: new IdempotencyRecords(store, {
      onLoss: (failure) =>
        log.error({ err: failure }, 'the answer of a request with an idempotency key could not be kept'),
    }),
    metrics,
    isOutputChecked: config.isDevelopment,
    staticFiles: documentFiles(),
    pages: new ConsoleFiles(),
    limits: configuredLimits(config.limits),
  });
  log.info(
    { socket: config.socketPath, https: server.httpsAddress, fingerprint: authority?.fingerprint },
    'the API answers',
  );

  // Those of guests that run or are being worked on; another may not have answered on its monitor yet.
  await networks.removeStrayTaps((id) => {
    const vm = vmObjects.get(id);
    return vm !== null && (liveVmStates.has(vm.status.state) || engine.activeOn({ kind: 'vm', id }).length > 0);
  });
  engine.start();
  phase = 'ok';
  const background = (async () => {
    await networks.start(hasRebooted);
    await reach.start();
    await firewall.start(hasRebooted);
    await nodes.inspect();
    await supervisor.begin(hasRebooted);
    await nodes.settleBoot();
    await templating.warm.recover();
    await images.showUsers();
    merging.planAll();
    await history.removeStrays();
    sampler.start();
    log.info('everything is as it should be');
  })().catch((error: unknown) => log.error({ err: error }, 'the start could not be completed'));

  return {
    stop: async () => {
      phase = 'stopping';
      await server.close({ graceMs: config.limits.shutdownGraceS * 1000 });
      supervisor.close();
      await balloons.close();
      await placements.close();
      await statuses.close();
      groups.close();
      await background;
      await sampler.close();
      await engine.stop();
      await merging.close();
      await reach.close();
      await firewall.close();
      await networks.close();
      await nodes.close();
      await tokens.settle();
      guests.release();
      await driver.close();
      authority?.close();
      metrics.close();
      for (const each of [...objects.all, layerRecords, snapshotRecords]) await each.close();
      await store.close();
    },
  };
}
