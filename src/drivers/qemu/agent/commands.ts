// Every command of the guest agent that Lodge uses: its arguments, and a schema that its answer must pass, since a
// guest can answer anything. Reference: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
import * as z from 'zod';

const shortText = z.string().max(4096);
const count = z.int().min(0);
/** Base64 is decoded leniently by Buffer; what is no base64 then gives other bytes, which is the guest's own harm. */
const base64 = z.string();
const handle = z.int();
const nothing = z.unknown();

interface AgentCommand<Arguments, Answer> {
  readonly answer: z.ZodType<Answer>;
  /** Never there at run time: carries the type of the arguments. */
  readonly arguments?: Arguments;
}

function command<Arguments, Answer>(answer: z.ZodType<Answer>): AgentCommand<Arguments, Answer> {
  return { answer };
}

type None = undefined;

/** Where a device sits, as the guest sees it. */
const diskAddress = z.object({
  'pci-controller': z.object({ domain: z.int(), bus: z.int(), slot: z.int(), function: z.int() }),
  'bus-type': shortText,
  bus: z.int(),
  target: z.int(),
  unit: z.int(),
  dev: shortText.optional(),
});
const statistic = count.optional();

export const agentCommands = {
  'guest-ping': command<None, unknown>(nothing),
  'guest-info': command<None, AgentInfo>(
    z.object({
      version: shortText,
      // An agent may leave the list out; then nothing is known of its commands.
      supported_commands: z
        .array(z.object({ name: shortText, enabled: z.boolean() }))
        .max(1000)
        .default([]),
    }),
  ),
  'guest-get-osinfo': command<None, AgentOsInfo>(
    z.object({
      id: shortText.optional(),
      name: shortText.optional(),
      'pretty-name': shortText.optional(),
      version: shortText.optional(),
      'version-id': shortText.optional(),
      'kernel-release': shortText.optional(),
      'kernel-version': shortText.optional(),
      machine: shortText.optional(),
    }),
  ),
  'guest-get-host-name': command<None, { 'host-name': string }>(z.object({ 'host-name': shortText })),
  'guest-network-get-interfaces': command<None, AgentInterface[]>(
    z
      .array(
        z.object({
          name: shortText,
          'hardware-address': shortText.optional(),
          'ip-addresses': z
            .array(
              z.object({
                'ip-address': shortText,
                'ip-address-type': z.enum(['ipv4', 'ipv6']),
                prefix: z.int().min(0).max(128),
              }),
            )
            .max(1000)
            .optional(),
          statistics: z
            .object({
              'rx-bytes': count,
              'rx-packets': count,
              'rx-errs': count,
              'rx-dropped': count,
              'tx-bytes': count,
              'tx-packets': count,
              'tx-errs': count,
              'tx-dropped': count,
            })
            .optional(),
        }),
      )
      .max(1000),
  ),
  'guest-get-fsinfo': command<None, AgentFileSystem[]>(
    z
      .array(
        z.object({
          name: shortText,
          mountpoint: shortText,
          type: shortText,
          'used-bytes': count.optional(),
          'total-bytes': count.optional(),
          disk: z.array(diskAddress).max(1000).optional(),
        }),
      )
      .max(10_000),
  ),
  'guest-get-disks': command<None, AgentDisk[]>(
    z
      .array(
        z.object({
          name: shortText,
          partition: z.boolean(),
          dependencies: z.array(shortText).max(1000).optional(),
          address: diskAddress.optional(),
        }),
      )
      .max(10_000),
  ),
  'guest-get-timezone': command<None, { zone?: string; offset: number }>(
    z.object({ zone: shortText.optional(), offset: z.int().min(-86_400).max(86_400) }),
  ),
  'guest-get-load': command<None, { load1m: number; load5m: number; load15m: number }>(
    z.object({ load1m: z.number().min(0), load5m: z.number().min(0), load15m: z.number().min(0) }),
  ),
  'guest-get-cpustats': command<None, AgentCpuStatistics[]>(
    z
      .array(
        z.object({
          cpu: count,
          user: count,
          nice: count,
          system: count,
          idle: count,
          iowait: statistic,
          irq: statistic,
          softirq: statistic,
          steal: statistic,
        }),
      )
      .max(4096),
  ),
  'guest-get-diskstats': command<None, AgentDiskStatistics[]>(
    z
      .array(
        z.object({
          name: shortText,
          stats: z.object({
            'read-ios': statistic,
            'read-sectors': statistic,
            'read-ticks': statistic,
            'write-ios': statistic,
            'write-sectors': statistic,
            'write-ticks': statistic,
            'ios-pgr': statistic,
          }),
        }),
      )
      .max(10_000),
  ),
  'guest-get-vcpus': command<None, AgentVcpu[]>(
    z.array(z.object({ 'logical-id': z.int(), online: z.boolean(), 'can-offline': z.boolean().optional() })).max(4096),
  ),
  'guest-set-vcpus': command<{ vcpus: readonly { 'logical-id': number; online: boolean }[] }, number>(count),
  'guest-get-users': command<None, AgentUser[]>(
    z.array(z.object({ user: shortText, 'login-time': z.number(), domain: shortText.optional() })).max(10_000),
  ),

  'guest-exec': command<
    {
      path: string;
      arg?: readonly string[];
      env?: readonly string[];
      'input-data'?: string;
      'capture-output'?: boolean;
    },
    { pid: number }
  >(z.object({ pid: z.int() })),
  'guest-exec-status': command<{ pid: number }, AgentExecStatus>(
    z.object({
      exited: z.boolean(),
      exitcode: z.int().optional(),
      signal: z.int().optional(),
      'out-data': base64.optional(),
      'err-data': base64.optional(),
      'out-truncated': z.boolean().optional(),
      'err-truncated': z.boolean().optional(),
    }),
  ),

  'guest-file-open': command<{ path: string; mode: 'r' | 'w' | 'a' }, number>(handle),
  'guest-file-close': command<{ handle: number }, unknown>(nothing),
  'guest-file-flush': command<{ handle: number }, unknown>(nothing),
  'guest-file-read': command<{ handle: number; count: number }, AgentFileRead>(
    z.object({ count, 'buf-b64': base64.optional(), eof: z.boolean() }),
  ),
  'guest-file-write': command<{ handle: number; 'buf-b64': string }, { count: number }>(z.object({ count })),
  'guest-file-seek': command<{ handle: number; offset: number; whence: 'set' | 'cur' | 'end' }, { position: number }>(
    z.object({ position: count }),
  ),

  'guest-fsfreeze-status': command<None, 'thawed' | 'frozen'>(z.enum(['thawed', 'frozen'])),
  'guest-fsfreeze-freeze': command<None, number>(count),
  'guest-fsfreeze-thaw': command<None, number>(count),

  'guest-get-time': command<None, number>(z.number()),
  'guest-set-time': command<{ time: number }, unknown>(nothing),
  'guest-shutdown': command<{ mode: 'powerdown' | 'reboot' | 'halt' }, unknown>(nothing),
  'guest-set-user-password': command<{ username: string; password: string; crypted: boolean }, unknown>(nothing),
  'guest-ssh-add-authorized-keys': command<{ username: string; keys: readonly string[]; reset?: boolean }, unknown>(
    nothing,
  ),
} as const;

export interface AgentInfo {
  version: string;
  supported_commands: { name: string; enabled: boolean }[];
}

export interface AgentOsInfo {
  id?: string;
  name?: string;
  'pretty-name'?: string;
  version?: string;
  'version-id'?: string;
  'kernel-release'?: string;
  'kernel-version'?: string;
  machine?: string;
}

export interface AgentInterface {
  name: string;
  'hardware-address'?: string;
  'ip-addresses'?: { 'ip-address': string; 'ip-address-type': 'ipv4' | 'ipv6'; prefix: number }[];
  /** Counted since the interface came up; rx: received, tx: sent. */
  statistics?: Record<`${'rx' | 'tx'}-${'bytes' | 'packets' | 'errs' | 'dropped'}`, number>;
}

/** Where a device sits, as the guest sees it; what bus, target and unit mean depends on the type of the bus. */
export interface AgentDiskAddress {
  'pci-controller': { domain: number; bus: number; slot: number; function: number };
  'bus-type': string;
  bus: number;
  target: number;
  unit: number;
  /** /dev/vda1 */
  dev?: string;
}

export interface AgentDisk {
  /** /dev/vda */
  name: string;
  partition: boolean;
  /** Devices that it is a part of or made of. */
  dependencies?: string[];
  address?: AgentDiskAddress;
}

/** Milliseconds since the guest booted. */
export interface AgentCpuStatistics {
  cpu: number;
  user: number;
  nice: number;
  system: number;
  idle: number;
  iowait?: number;
  irq?: number;
  softirq?: number;
  steal?: number;
}

/** /proc/diskstats of Linux: sectors of 512 bytes, ticks of a millisecond. */
export interface AgentDiskStatistics {
  name: string;
  stats: {
    'read-ios'?: number;
    'read-sectors'?: number;
    'read-ticks'?: number;
    'write-ios'?: number;
    'write-sectors'?: number;
    'write-ticks'?: number;
    'ios-pgr'?: number;
  };
}

export interface AgentFileSystem {
  name: string;
  mountpoint: string;
  type: string;
  'used-bytes'?: number;
  'total-bytes'?: number;
  /** Where the disks are that it lies on. */
  disk?: AgentDiskAddress[];
}

export interface AgentVcpu {
  'logical-id': number;
  online: boolean;
  'can-offline'?: boolean;
}

export interface AgentUser {
  user: string;
  /** Seconds since 1970, with fractions. */
  'login-time': number;
  domain?: string;
}

export interface AgentExecStatus {
  exited: boolean;
  exitcode?: number;
  signal?: number;
  'out-data'?: string;
  'err-data'?: string;
  'out-truncated'?: boolean;
  'err-truncated'?: boolean;
}

export interface AgentFileRead {
  count: number;
  'buf-b64'?: string;
  eof: boolean;
}

export type AgentCommandName = keyof typeof agentCommands;
export type AgentArguments<C extends AgentCommandName> =
  (typeof agentCommands)[C] extends AgentCommand<infer Arguments, infer _> ? Arguments : never;
export type AgentAnswer<C extends AgentCommandName> =
  (typeof agentCommands)[C] extends AgentCommand<infer _, infer Answer> ? Answer : never;
