// Routes of VMs.
import { type Duplex, pipeline } from 'node:stream';
import { type NounHandlers } from '../../api/contract.ts';
import { LodgeError } from '../../api/errors.ts';
import { vm as vmSchema, type Vm } from '../../api/vm.ts';
import { latencyEdgesUs } from '../../api/vm-latency.ts';
import { type VmSpecInput } from '../../api/vm-spec.ts';
import { type Driver } from '../../drivers/driver.ts';
import { byteAnswer, type ByteSource, type Caller, type RequestContext } from '../http/context.ts';
import { type MetricsHistory } from '../metrics/metrics-history.ts';
import { lister } from '../store/list-page.ts';
import { toTask, type TaskRecord } from '../task/task.ts';
import { type PlacementService } from '../tuning/placement-service.ts';
import { vmFor } from './first-boot-secrets.ts';
import { type ConsoleTickets } from './console-tickets.ts';
import { type VolumeService } from '../volume/volume-service.ts';
import { withHostDisks } from './host-disks.ts';
import { searchSerial } from './serial-search.ts';
import { Screenshots } from './screenshots.ts';
import { type NicTraffic } from './nic-traffic.ts';
import { type Tunnels } from './tunnels.ts';
import { type UsageSampler } from './usage-sampler.ts';
import { type VmActions } from './vm-actions.ts';
import { type VmRecords } from './vm-records.ts';
import { type VmCloning } from './vm-cloning.ts';
import { type VmRequest, type VmService } from './vm-service.ts';

const maxProcessLogBytes = 262_144;
/** More than is kept of a log, unless the daemon was away for long. */
const maxSerialLogBytes = 4_194_304;

type VmCreation = (given: VmRequest, requestedBy: string) => Promise<TaskRecord>;

export interface VmHandlersParts {
  service: VmService;
  cloning: VmCloning;
  actions: VmActions;
  records: VmRecords;
  driver: Driver;
  tickets: ConsoleTickets;
  tunnels: Tunnels;
  traffic: NicTraffic;
  usage: UsageSampler;
  volumes: VolumeService;
  history: MetricsHistory;
  placements: PlacementService;
  /** Makes a VM that goes on from prepared memory, or boots where nothing prepared fits. */
  createWarm: VmCreation;
}

export function vmHandlers({
  service,
  cloning,
  actions,
  records,
  driver,
  tickets,
  tunnels,
  traffic,
  usage,
  volumes,
  history,
  placements,
  createWarm,
}: VmHandlersParts): NounHandlers<'vm', RequestContext, ByteSource> {
  const { collection } = records;
  const screenshots = new Screenshots();
  // What is hidden can't be filtered or sorted by either: that would tell it bit by bit.
  const list = lister(vmSchema, {
    all: (caller: Caller) => shownTo(caller, collection.all()),
    revision: () => collection.revision,
  });
  const find = ({ params, query }: { params: { vm: string }; query: { project: string } }): Vm =>
    service.require(query.project, params.vm);
  return {
    list: async ({ query }, { caller }) => list(query, caller),
    create: async ({ query, body }, context) => {
      const given = { ...body, spec: saidIn(context) };
      const { name } = context.caller;
      return toTask(await (query.warm ? createWarm(given, name) : service.create(given, query.start, name)));
    },
    get: async (request, { caller }) => vmFor(caller, find(request)),
    update: async (request, context) => {
      const { caller } = context;
      const change = { ...request.body, spec: saidIn(context), isForced: request.query.force };
      return vmFor(caller, await service.update(find(request), change, caller.name));
    },
    rename: async (request, { caller }) => vmFor(caller, await service.rename(find(request), request.body)),
    delete: async (request, { caller }) =>
      toTask(await service.delete(find(request), request.query.force, caller.name)),
    start: async (request, { caller }) =>
      toTask(await service.start(find(request), caller.name, { bootOnce: request.body.bootOnce })),
    stop: async (request, { caller }) => toTask(await service.stop(find(request), request.body.timeoutS, caller.name)),
    forceOff: async (request, { caller }) => toTask(await service.forceOff(find(request), caller.name)),
    restart: async (request, { caller }) => toTask(await service.restart(find(request), request.body, caller.name)),
    reset: async (request, { caller }) => vmFor(caller, await service.actNow(find(request), 'reset')),
    pause: async (request, { caller }) => vmFor(caller, await service.actNow(find(request), 'pause')),
    resume: async (request, { caller }) => vmFor(caller, await service.actNow(find(request), 'resume')),
    clone: async (request, { caller }) => toTask(await cloning.clone(find(request), request.body, caller.name)),
    fork: async (request, { caller }) => toTask(await service.fork(find(request), request.body, caller.name)),
    resetFirmware: async (request, { caller }) =>
      vmFor(caller, await service.resetFirmware(find(request), request.body.what)),
    suspend: async (request, { caller }) => toTask(await service.suspend(find(request), caller.name)),
    act: async ({ body }, { caller }) => toTask(await actions.act(body, caller)),
    planAction: async ({ body }, { caller }) => ({ items: actions.plan(body, caller) }),
    usage: async () => ({ at: new Date().toISOString(), items: await usage.sample() }),
    cpus: (request) => placements.cpus(find(request)),
    metrics: (request) => history.ofVm(find(request).id, request.query, Date.now() / 1000),
    exits: async (request, { signal }) => {
      const { watchS, trace } = request.query;
      const guest = service.guest(find(request), 'measure');
      const seen = await guest.exits({ watchMs: watchS * 1000, isTracing: trace, signal });
      return { at: new Date().toISOString(), ...seen };
    },
    diskLatency: async (request) => {
      const { disks } = await service.guest(find(request), 'measure').detail();
      return { at: new Date().toISOString(), edgesUs: [...latencyEdgesUs], disks: disks && [...disks.latency] };
    },
    log: async (request) => byteAnswer(await driver.processLog(service.place(find(request)), maxProcessLogBytes)),

    openConsole: async (request, { caller }) => {
      const target = find(request);
      const { type } = request.body;
      // Refused here rather than at the WebSocket, where a browser shows no reason.
      service.guest(target, 'console');
      const { ticket, expiresAt } = tickets.issue({ vmId: target.id, type, caller: caller.name });
      return { ticket, type, path: `/v1/consoles/${ticket}`, expiresAt: expiresAt.toISOString() };
    },
    attachConsole: async ({ params }, context) => {
      const { vmId, type, caller } = tickets.redeem(params.ticket);
      const guest = service.guest(records.byId(vmId), 'console');
      const console = type === 'serial' ? await guest.openSerial() : await guest.openVnc();
      context.log.info({ vmId, type, openedBy: caller }, 'a console was opened');
      let client: Duplex;
      try {
        client = await context.acceptWebSocket();
      } catch (error) {
        console.destroy();
        throw error;
      }
      await join(client, console, context.signal);
    },
    nicCounters: async (request) => ({ items: traffic.counters(find(request)) }),
    capture: async (request, { caller, log, signal }) => {
      const target = find(request);
      log.info({ vmId: target.id, filter: request.query.filter, openedBy: caller.name }, 'packets are captured');
      return traffic.capture(target, request.query, signal);
    },
    tunnel: async (request, context) => {
      const { port } = request.query;
      const target = find(request);
      const { socket, release } = await tunnels.open(target, port, context.signal);
      context.log.info({ vmId: target.id, port, openedBy: context.caller.name }, 'a tunnel was opened');
      try {
        await join(await context.acceptWebSocket(), socket, context.signal);
      } finally {
        socket.destroy();
        await release();
      }
    },
    serialLog: async (request) =>
      byteAnswer((await driver.serialLog(service.place(find(request)), request.query.bytes)).bytes),
    searchSerialLog: async (request) =>
      searchSerial(await driver.serialLog(service.place(find(request)), maxSerialLogBytes), request.query),
    screenshot: async (request) => {
      const target = find(request);
      const guest = service.guest(target, 'console');
      const { png, tag, since } = await screenshots.take(target.id, guest, request.query.width ?? null);
      // To be kept by browsers, and asked for again each time.
      const headers = { etag: tag, 'last-modified': since.toUTCString(), 'cache-control': 'private, no-cache' };
      return byteAnswer(png, { headers });
    },
    sendKeys: async (request) =>
      service.guest(find(request), 'console').sendKeys(request.body.combinations, request.body.holdMs),
    injectNmi: async (request) => service.guest(find(request), 'console').injectNmi(),

    guestInfo: async (request, { signal }) => {
      const target = find(request);
      return withHostDisks(await service.guest(target, 'guest').agent.info({ signal }), target, volumes);
    },
    guestMetrics: async (request, { signal }) => service.guest(find(request), 'guest').agent.metrics({ signal }),
    exec: async (request, { signal }) => {
      const { command, environment, input, timeoutS } = request.body;
      const { agent } = service.guest(find(request), 'guest');
      return agent.exec(
        {
          command,
          environment,
          input: input === undefined ? null : Buffer.from(input, 'base64'),
          timeoutMs: timeoutS * 1000,
        },
        { signal },
      );
    },
    readFile: async (request, { signal }) => {
      const { agent } = service.guest(find(request), 'guest');
      return agent.readFile(request.query.path, { signal });
    },
    writeFile: async (request, { signal }) => {
      const { agent } = service.guest(find(request), 'guest');
      await agent.writeFile(request.query.path, request.body, { signal });
    },
    freeze: async (request, { signal }) => ({
      fileSystems: await service.guest(find(request), 'guest').agent.freeze({ signal }),
    }),
    thaw: async (request, { signal }) => ({
      fileSystems: await service.guest(find(request), 'guest').agent.thaw({ signal }),
    }),
  };
}

/** The spec as it was sent: what is left out may come from profiles, and not from the contract's defaults. */
function saidIn({ sent }: RequestContext): VmSpecInput {
  return (sent as { spec: VmSpecInput }).spec;
}

function* shownTo(caller: Caller, vms: Iterable<Vm>): Iterable<Vm> {
  for (const vm of vms) yield vmFor(caller, vm);
}

/** Carries bytes both ways until either side ends; then both end. */
function join(client: Duplex, console: Duplex, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    let failure: unknown = null;
    const end = (error?: unknown): void => {
      // A side that hangs up is how consoles end; only the guest's own refusal is told.
      if (error instanceof LodgeError) failure ??= error;
      client.destroy();
      console.destroy();
      if (failure === null) resolve();
      else reject(failure instanceof Error ? failure : new Error('the console broke'));
    };
    signal.addEventListener('abort', () => end(), { once: true });
    pipeline(client, console, (error) => end(error));
    pipeline(console, client, (error) => end(error));
  });
}
