// Every QMP command Lodge uses, with its arguments and its answer: the one table from which the types of the client
// follow and which the schema check compares with the installed QEMU. Only what is used is described: an answer may
// have more members, and a command more optional arguments, than stand here.
// Reference: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
import { command, commandOf, type CommandDescriptor } from './command.ts';
import { blockCommands } from './commands-block.ts';
import { migrationCommands } from './commands-migration.ts';
import {
  alternate,
  any,
  array,
  boolean,
  enumeration,
  integer,
  object,
  oneOf,
  openObject,
  optional,
  string,
  union,
  type ValueOf,
} from './shape.ts';

/** The state of the virtual machine as QEMU sees it (QAPI type RunState). */
export const runState = enumeration(
  'debug',
  'inmigrate',
  'internal-error',
  'io-error',
  'paused',
  'postmigrate',
  'prelaunch',
  'finish-migrate',
  'restore-vm',
  'running',
  'save-vm',
  'shutdown',
  'suspended',
  'watchdog',
  'guest-panicked',
  'colo',
);
export type RunState = ValueOf<typeof runState>;

const version = object({
  qemu: object({ major: integer, minor: integer, micro: integer }),
  package: string,
});

/** `qcode` names a key as in QAPI's QKeyCode (`ctrl`, `alt`, `delete`, `f1`, `a`, …), `number` is a scan code. */
const keyValue = union(
  'type',
  {},
  {
    qcode: { data: string },
    number: { data: integer },
  },
);

const inputEvent = union(
  'type',
  {},
  {
    key: { data: object({ key: keyValue, down: boolean }) },
    btn: {
      data: object({
        button: oneOf('left', 'middle', 'right', 'wheel-up', 'wheel-down', 'wheel-left', 'wheel-right'),
        down: boolean,
      }),
    },
    rel: { data: object({ axis: enumeration('x', 'y'), value: integer }) },
    abs: { data: object({ axis: enumeration('x', 'y'), value: integer }) },
  },
);
/** Where a virtual processor sits; what `device_add` of a processor takes (QAPI type CpuInstanceProperties). */
const processorPosition = object({
  'node-id': optional(integer),
  'socket-id': optional(integer),
  'die-id': optional(integer),
  'core-id': optional(integer),
  'thread-id': optional(integer),
});

const cpuModel = object({ name: string, props: optional(any) });
const statsProvider = enumeration('kvm', 'cryptodev');
const statsTarget = enumeration('vm', 'vcpu', 'cryptodev');
const statsRequest = array(object({ provider: statsProvider, names: optional(array(string)) }));

const socketAddress = union(
  'type',
  {},
  {
    unix: { data: object({ path: string }) },
    inet: { data: object({ host: string, port: string }) },
    fd: { data: object({ str: string }) },
  },
);
const chardevBackend = union(
  'type',
  {},
  {
    socket: {
      data: object({
        addr: socketAddress,
        server: optional(boolean),
        wait: optional(boolean),
        logfile: optional(string),
        logappend: optional(boolean),
      }),
    },
    file: { data: object({ out: string, in: optional(string), append: optional(boolean) }) },
    null: { data: object({}) },
    ringbuf: { data: object({ size: optional(integer) }) },
  },
);

const accelerator = oneOf('kvm', 'tcg');
const memoryDevice = { id: optional(string), memaddr: integer, size: integer, memdev: string };
const dimm = {
  data: object({
    id: optional(string),
    addr: integer,
    size: integer,
    slot: integer,
    node: integer,
    memdev: string,
    hotplugged: boolean,
    hotpluggable: boolean,
  }),
};

const machineCommands = {
  qmp_capabilities: command({ enable: optional(array(oneOf('oob'))) }),

  // The machine's run state.
  'query-status': command({}, object({ running: boolean, status: runState })),
  cont: command({}),
  stop: command({}),
  system_powerdown: command({}),
  system_reset: command({}),
  system_wakeup: command({}),
  quit: command({}),
  'inject-nmi': command({}),
  'rtc-reset-reinjection': command({}),

  // What this QEMU is and can do.
  'query-version': command({}, version),
  'query-name': command({}, object({ name: optional(string) })),
  'query-uuid': command({}, object({ UUID: string })),
  'query-target': command({}, object({ arch: string })),
  'query-kvm': command({}, object({ enabled: boolean, present: boolean })),
  'query-accelerators': command({}, object({ enabled: accelerator, present: array(accelerator) }), {
    since: '10.2',
  }),
  'query-machines': command(
    {},
    array(
      object({
        name: string,
        alias: optional(string),
        'is-default': optional(boolean),
        'cpu-max': integer,
        'hotpluggable-cpus': boolean,
        'numa-mem-supported': boolean,
        deprecated: boolean,
        'default-cpu-type': optional(string),
        'default-ram-id': optional(string),
        acpi: boolean,
      }),
    ),
  ),
  'query-cpu-definitions': command(
    {},
    array(
      object({
        name: string,
        'migration-safe': optional(boolean),
        static: boolean,
        'unavailable-features': optional(array(string)),
        typename: string,
        'alias-of': optional(string),
        deprecated: boolean,
      }),
    ),
  ),
  'query-cpu-model-expansion': command(
    { type: enumeration('static', 'full'), model: cpuModel },
    object({ model: cpuModel }),
  ),
  'query-commands': command({}, array(object({ name: string }))),
  'query-qmp-schema': command({}, any),
  'query-command-line-options': command(
    { option: optional(string) },
    array(
      object({
        option: string,
        parameters: array(
          object({
            name: string,
            type: enumeration('string', 'boolean', 'number', 'size'),
            help: optional(string),
            default: optional(string),
          }),
        ),
      }),
    ),
  ),
  'human-monitor-command': command({ 'command-line': string, 'cpu-index': optional(integer) }, string),

  // Processors, threads, memory.
  'query-cpus-fast': command(
    {},
    array(
      object({
        'cpu-index': integer,
        'qom-path': string,
        'thread-id': integer,
        props: optional(processorPosition),
        target: string,
      }),
    ),
  ),
  'query-hotpluggable-cpus': command(
    {},
    array(object({ type: string, 'vcpus-count': integer, props: processorPosition, 'qom-path': optional(string) })),
  ),
  'query-iothreads': command({}, array(object({ id: string, 'thread-id': integer, 'poll-max-ns': integer }))),
  'query-memory-size-summary': command({}, object({ 'base-memory': integer, 'plugged-memory': optional(integer) })),
  'query-memory-devices': command(
    {},
    array(
      union(
        'type',
        {},
        {
          dimm,
          nvdimm: dimm,
          'virtio-pmem': { data: object(memoryDevice) },
          'virtio-mem': {
            data: object({
              ...memoryDevice,
              'requested-size': integer,
              'max-size': integer,
              'block-size': integer,
              node: integer,
            }),
          },
          'sgx-epc': { data: object({ ...memoryDevice, node: integer }) },
          'hv-balloon': {
            data: object({
              id: optional(string),
              memaddr: optional(integer),
              'max-size': integer,
              memdev: optional(string),
            }),
          },
        },
      ),
    ),
  ),
  balloon: command({ value: integer }),
  'query-balloon': command({}, object({ actual: integer })),

  // Devices and objects.
  'query-pci': command(
    {},
    array(
      object({
        bus: integer,
        devices: array(
          object({
            bus: integer,
            slot: integer,
            function: integer,
            class_info: object({ desc: optional(string), class: integer }),
            id: object({ device: integer, vendor: integer }),
            qdev_id: string,
            // A bridge's own devices have this same shape; the type ends here, because a type alone can't refer to itself.
            pci_bridge: optional(object({ devices: optional(any) })),
          }),
        ),
      }),
    ),
  ),
  device_add: commandOf(openObject({ driver: string, id: optional(string), bus: optional(string) })),
  device_del: command({ id: string }),
  'device-list-properties': command(
    { typename: string },
    array(object({ name: string, type: string, description: optional(string), 'default-value': optional(any) })),
  ),
  'object-add': commandOf(openObject({ 'qom-type': string, id: string })),
  'object-del': command({ id: string }),
  'qom-get': command({ path: string, property: string }, any),
  'qom-set': command({ path: string, property: string, value: any }),
  'qom-list': command({ path: string }, array(object({ name: string, type: string }))),
  'qom-list-types': command(
    { implements: optional(string), abstract: optional(boolean) },
    array(object({ name: string, abstract: optional(boolean), parent: optional(string) })),
  ),

  // Network.
  netdev_add: commandOf(openObject({ id: string, type: string })),
  netdev_del: command({ id: string }),
  set_link: command({ name: string, up: boolean }),
  'query-rx-filter': command(
    { name: optional(string) },
    array(object({ name: string, promiscuous: boolean, 'main-mac': string, 'unicast-table': array(string) })),
  ),
  'announce-self': command({
    initial: integer,
    max: integer,
    rounds: integer,
    step: integer,
    interfaces: optional(array(string)),
    id: optional(string),
  }),

  // Consoles.
  'query-chardev': command({}, array(object({ label: string, filename: string, 'frontend-open': boolean }))),
  'chardev-add': command({ id: string, backend: chardevBackend }, object({ pty: optional(string) })),
  'chardev-change': command({ id: string, backend: chardevBackend }, object({ pty: optional(string) })),
  'chardev-remove': command({ id: string }),
  'query-vnc': command(
    {},
    object({
      enabled: boolean,
      host: optional(string),
      family: optional(string),
      service: optional(string),
      auth: optional(string),
      clients: optional(array(object({ host: string, service: string, family: string, websocket: boolean }))),
    }),
  ),
  screendump: command({
    filename: string,
    device: optional(string),
    head: optional(integer),
    format: optional(enumeration('ppm', 'png')),
  }),
  'send-key': command({ keys: array(keyValue), 'hold-time': optional(integer) }),
  'input-send-event': command({
    device: optional(string),
    head: optional(integer),
    events: array(inputEvent),
  }),

  // File descriptors. `add-fd` and `getfd` take theirs from a control message on this very socket, which Node can't
  // send: without one QEMU refuses them.
  'add-fd': command(
    { 'fdset-id': optional(integer), opaque: optional(string) },
    object({ 'fdset-id': integer, fd: integer }),
  ),
  'remove-fd': command({ 'fdset-id': integer, fd: optional(integer) }),
  'query-fdsets': command(
    {},
    array(object({ 'fdset-id': integer, fds: array(object({ fd: integer, opaque: optional(string) })) })),
  ),
  getfd: command({ fdname: string }),
  closefd: command({ fdname: string }),

  // Statistics. `names` and `vcpus` restrict the answer; without them everything comes.
  'x-query-jit': command({}, object({ 'human-readable-text': string })),
  'calc-dirty-rate': command({ 'calc-time': integer }),
  'query-dirty-rate': command(
    {},
    object({
      'dirty-rate': optional(integer),
      status: enumeration('unstarted', 'measuring', 'measured'),
      'calc-time': integer,
    }),
  ),
  'query-stats': commandOf(
    union(
      'target',
      { providers: optional(statsRequest) },
      { vm: {}, vcpu: { vcpus: optional(array(string)) }, cryptodev: {} },
    ),
    array(
      object({
        provider: statsProvider,
        'qom-path': optional(string),
        stats: array(object({ name: string, value: alternate(integer, boolean, array(integer)) })),
      }),
    ),
  ),
  'query-stats-schemas': command(
    { provider: optional(statsProvider) },
    array(
      object({
        provider: statsProvider,
        target: statsTarget,
        stats: array(
          object({
            name: string,
            type: enumeration('cumulative', 'instant', 'peak', 'linear-histogram', 'log2-histogram'),
            unit: optional(enumeration('bytes', 'seconds', 'cycles', 'boolean')),
            base: optional(integer),
            exponent: integer,
            'bucket-size': optional(integer),
          }),
        ),
      }),
    ),
  ),
};

/** All commands by their name in QMP. */
export const commands = { ...machineCommands, ...blockCommands, ...migrationCommands };

export type QmpCommandName = keyof typeof commands;
export type QmpArguments<C extends QmpCommandName> =
  (typeof commands)[C] extends CommandDescriptor<infer Arguments, infer _> ? Arguments : never;
export type QmpReturn<C extends QmpCommandName> =
  (typeof commands)[C] extends CommandDescriptor<infer _, infer Returns> ? Returns : never;
