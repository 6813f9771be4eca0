// What a guest tells of itself through its agent: what it is, whom it has, what its file systems really hold, and what it
// measures. All of it is the guest's own word: it is checked and bounded, and kept apart from what the host measures (VmUsage).
import * as z from 'zod';
import { timestamp } from './object.ts';

const missing = z
  .array(
    z.object({
      what: z.string().describe('Field that is empty because of it'),
      reason: z.string().describe('Why: the agent has no such command, does not allow it, or gave no proper answer'),
    }),
  )
  .describe('What was not told, each with the reason');

const traffic = z
  .object({
    receivedBytes: z.number(),
    receivedPackets: z.number(),
    receivedErrors: z.number(),
    receivedDropped: z.number(),
    sentBytes: z.number(),
    sentPackets: z.number(),
    sentErrors: z.number(),
    sentDropped: z.number(),
  })
  .describe('As the guest counts it, since its interface came up')
  .meta({ id: 'GuestTraffic' });

export const guestDisk = z
  .object({
    disk: z
      .string()
      .nullable()
      .describe('Name of the VM’s disk that it is; null: it is none of them, or can’t be told'),
    device: z.string().describe('What the guest calls it: /dev/vda'),
    mountPoints: z.array(z.string()).describe('Where the guest has mounted what lies on it'),
    usedBytes: z
      .number()
      .nullable()
      .describe('Used in the file systems that lie on it alone, as the guest sees it; null: none is mounted'),
    totalBytes: z.number().nullable().describe('What those file systems could hold'),
    sizeMib: z.int().nullable().describe('Size of the VM’s disk, MiB'),
    hostBytes: z
      .number()
      .nullable()
      .describe('Space the disk takes on the node, with its snapshots, without its image; null: not known'),
  })
  .meta({ id: 'GuestDisk' });
export type GuestDiskInfo = z.output<typeof guestDisk>;

export const guestInfo = z
  .object({
    agentVersion: z.string(),
    hostname: z.string().nullable(),
    os: z
      .object({
        id: z.string().nullable(),
        name: z.string().nullable(),
        version: z.string().nullable(),
        kernel: z.string().nullable(),
        machine: z.string().nullable(),
      })
      .nullable(),
    timeZone: z.object({ name: z.string().nullable(), offsetS: z.int().describe('East of UTC, seconds') }).nullable(),
    clock: z
      .object({
        at: timestamp.describe('What the guest’s clock showed'),
        behindMs: z.int().describe('How far it was behind the node’s clock, milliseconds; negative: ahead'),
      })
      .nullable(),
    interfaces: z.array(
      z.object({
        name: z.string(),
        mac: z.string().nullable(),
        addresses: z.array(z.object({ address: z.string(), prefix: z.int(), family: z.enum(['ipv4', 'ipv6']) })),
      }),
    ),
    fileSystems: z.array(
      z.object({
        mountPoint: z.string(),
        name: z.string(),
        type: z.string(),
        totalBytes: z.number().nullable(),
        usedBytes: z.number().nullable(),
        disks: z.array(z.string()).describe('Names of the VM’s disks that it lies on, as far as they are known'),
      }),
    ),
    disks: z.array(guestDisk),
    vcpus: z
      .object({
        online: z.int().describe('vCPUs that the guest uses'),
        total: z.int().describe('vCPUs that the guest sees'),
      })
      .nullable(),
    users: z.array(z.object({ name: z.string(), loginAt: z.string().nullable() })).describe('Who is signed in'),
    missing,
  })
  .meta({ id: 'GuestInfo' });
export type GuestInfo = z.output<typeof guestInfo>;

/** What the hypervisor learns from the guest; the daemon adds what the node knows of the same disks. */
export type GuestReport = Omit<GuestInfo, 'disks'> & { disks: Omit<GuestDiskInfo, 'sizeMib' | 'hostBytes'>[] };

/** What is asked of every guest now and then. */
export type GuestGlance = Pick<GuestReport, 'agentVersion' | 'hostname' | 'os' | 'interfaces'>;

export const guestMetrics = z
  .object({
    at: timestamp,
    load: z
      .object({ oneMinute: z.number(), fiveMinutes: z.number(), fifteenMinutes: z.number() })
      .nullable()
      .describe('Load average'),
    memory: z
      .object({
        totalBytes: z.number().nullable(),
        freeBytes: z.number().nullable().describe('Not used for anything'),
        availableBytes: z.number().nullable().describe('Could be had without swapping: free, and caches that can go'),
        cacheBytes: z.number().nullable().describe('Held for files that were read or written'),
        swappedInBytes: z.number().nullable().describe('Since the guest booted'),
        swappedOutBytes: z.number().nullable(),
        minorFaults: z.number().nullable(),
        majorFaults: z.number().nullable(),
      })
      .nullable()
      .describe('As the balloon’s driver in the guest tells it'),
    cpus: z
      .array(
        z.object({
          cpu: z.int(),
          userMs: z.number(),
          niceMs: z.number(),
          systemMs: z.number(),
          idleMs: z.number(),
          ioWaitMs: z.number().nullable(),
          irqMs: z.number().nullable(),
          softIrqMs: z.number().nullable(),
          stealMs: z.number().nullable().describe('It could have run and the host did not let it'),
        }),
      )
      .nullable()
      .describe('Where each vCPU’s time went since the guest booted'),
    disks: z
      .array(
        z.object({
          device: z.string(),
          reads: z.number().nullable(),
          readBytes: z.number().nullable(),
          readMs: z.number().nullable(),
          writes: z.number().nullable(),
          writtenBytes: z.number().nullable(),
          writeMs: z.number().nullable(),
          inFlight: z.number().nullable(),
        }),
      )
      .nullable()
      .describe('Since the guest booted'),
    interfaces: z.array(z.object({ name: z.string(), mac: z.string().nullable(), traffic })).nullable(),
    missing,
  })
  .meta({ id: 'GuestMetrics' });
export type GuestMetrics = z.output<typeof guestMetrics>;
