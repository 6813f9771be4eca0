// Every QMP event Lodge looks at, with its data: like the commands, one table for types and schema check.
import { event, type EventDescriptor } from './command.ts';
import { jobStatus, jobType } from './commands-block.ts';
import { migrationStatus } from './commands-migration.ts';
import { any, boolean, enumeration, integer, object, optional, string } from './shape.ts';

/** Why the machine went down or was reset (QAPI type ShutdownCause). */
const shutdownCause = enumeration(
  'none',
  'host-error',
  'host-qmp-quit',
  'host-qmp-system-reset',
  'host-signal',
  'host-ui',
  'guest-shutdown',
  'guest-reset',
  'guest-panic',
  'subsystem-reset',
  'snapshot-load',
);

const panicAction = enumeration('pause', 'poweroff', 'run');
const blockErrorAction = enumeration('ignore', 'report', 'stop');
const readOrWrite = enumeration('read', 'write');
const job = { type: jobType, device: string, len: integer, offset: integer, speed: integer };
const vncServer = object({ host: string, service: string, websocket: boolean, auth: optional(string) });
const vncClient = object({ host: string, service: string, websocket: boolean });

export const events = {
  // Run state.
  SHUTDOWN: event({ guest: boolean, reason: shutdownCause }),
  POWERDOWN: event({}),
  RESET: event({ guest: boolean, reason: shutdownCause }),
  STOP: event({}),
  RESUME: event({}),
  SUSPEND: event({}),
  SUSPEND_DISK: event({}),
  WAKEUP: event({}),
  WATCHDOG: event({
    action: enumeration('reset', 'shutdown', 'poweroff', 'pause', 'debug', 'none', 'inject-nmi'),
  }),
  GUEST_PANICKED: event({ action: panicAction, info: optional(any) }),
  GUEST_CRASHLOADED: event({ action: panicAction, info: optional(any) }),
  GUEST_PVSHUTDOWN: event({}, '9.1'),
  MEMORY_FAILURE: event({
    recipient: enumeration('hypervisor', 'guest'),
    action: enumeration('ignore', 'inject', 'fatal', 'reset'),
    flags: object({ 'action-required': boolean, recursive: boolean }),
  }),

  // Devices.
  DEVICE_DELETED: event({ device: optional(string), path: string }),
  DEVICE_UNPLUG_GUEST_ERROR: event({ device: optional(string), path: string }),
  ACPI_DEVICE_OST: event({
    info: object({
      device: optional(string),
      slot: string,
      'slot-type': enumeration('DIMM', 'CPU'),
      source: integer,
      status: integer,
    }),
  }),
  BALLOON_CHANGE: event({ actual: integer }),
  MEMORY_DEVICE_SIZE_CHANGE: event({ id: optional(string), size: integer, 'qom-path': string }),
  RTC_CHANGE: event({ offset: integer, 'qom-path': string }),
  VSERPORT_CHANGE: event({ id: string, open: boolean }),
  NIC_RX_FILTER_CHANGED: event({ name: optional(string), path: string }),
  FAILOVER_NEGOTIATED: event({ 'device-id': string }),
  UNPLUG_PRIMARY: event({ 'device-id': string }),
  NETDEV_STREAM_DISCONNECTED: event({ 'netdev-id': string }),

  // Disks and jobs.
  DEVICE_TRAY_MOVED: event({ device: string, id: string, 'tray-open': boolean }),
  BLOCK_IMAGE_CORRUPTED: event({
    device: string,
    'node-name': optional(string),
    msg: string,
    offset: optional(integer),
    size: optional(integer),
    fatal: boolean,
  }),
  BLOCK_IO_ERROR: event({
    device: string,
    'qom-path': optional(string),
    'node-name': optional(string),
    operation: readOrWrite,
    action: blockErrorAction,
    nospace: optional(boolean),
    reason: string,
  }),
  BLOCK_JOB_COMPLETED: event({ ...job, error: optional(string) }),
  BLOCK_JOB_CANCELLED: event(job),
  BLOCK_JOB_READY: event(job),
  BLOCK_JOB_ERROR: event({ device: string, operation: readOrWrite, action: blockErrorAction }),
  BLOCK_JOB_PENDING: event({ type: jobType, id: string }),
  BLOCK_WRITE_THRESHOLD: event({ 'node-name': string, 'amount-exceeded': integer, 'write-threshold': integer }),
  BLOCK_EXPORT_DELETED: event({ id: string }),
  JOB_STATUS_CHANGE: event({ id: string, status: jobStatus }),

  // Migration and consoles.
  MIGRATION: event({ status: migrationStatus }),
  MIGRATION_PASS: event({ pass: integer }),
  VNC_CONNECTED: event({ server: vncServer, client: vncClient }),
  VNC_INITIALIZED: event({ server: vncServer, client: vncClient }),
  VNC_DISCONNECTED: event({ server: vncServer, client: vncClient }),
};

export type QmpEventName = keyof typeof events;
export type QmpEventData<E extends QmpEventName> =
  (typeof events)[E] extends EventDescriptor<infer Data> ? Data : never;

/** An event of the table. `timeMs` is QEMU's clock, in milliseconds since 1970. */
export type QmpEvent = { [E in QmpEventName]: { name: E; data: QmpEventData<E>; timeMs: number } }[QmpEventName];
export type QmpEventOf<E extends QmpEventName> = Extract<QmpEvent, { name: E }>;
