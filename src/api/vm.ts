// Virtual machines: the object with what was observed of it, and its routes. Spec: vm-spec.ts; states: vm-state.ts;
// what the guest agent offers: vm-guest.ts.
import * as z from 'zod';
import { vmMetricsRoutes } from './metrics.ts';
import { vmExitsRoutes } from './vm-exits.ts';
import { vmLatencyRoutes } from './vm-latency.ts';
import { creation, inProject, listQuery, metadata, objectName, page, timestamp, update } from './object.ts';
import { bytes, route, type RouteTable } from './route.ts';
import { nicLimitStatus } from './nic-limits.ts';
import { publishedPort } from './port-forward.ts';
import { task } from './task.ts';
import { vmGuestRoutes } from './vm-guest.ts';
import { vmActionRoutes } from './vm-action.ts';
import { vmCloneRoutes } from './vm-clone.ts';
import { vmConsoleRoutes } from './vm-console.ts';
import { vmForkRoutes, vmLineage } from './vm-fork.ts';
import { vmDevice, vmHardware } from './vm-hardware.ts';
import { bootOnce, firmwareReset } from './vm-firmware.ts';
import { profileChange } from './vm-inherited.ts';
import { vmPlacement, vmPlacementRoutes } from './vm-placement.ts';
import { vmSpec } from './vm-spec.ts';
import { vmState } from './vm-state.ts';
import { vmNetworkRoutes } from './vm-network.ts';
import { vmTunnelRoutes } from './vm-tunnel.ts';
import { agentAdvice } from './agent-advice.ts';

/** Every option a VM was started with that a new QEMU or node could change. It stays until the VM is started afresh by `restart --fresh` of its hardware. */
export const vmPinned = z
  .object({
    qemuVersion: z.string().describe('QEMU that runs it'),
    machine: z.string().describe('Versioned machine type: pc-q35-10.0'),
    accelerator: z.enum(['kvm', 'tcg']),
    rung: z.enum(['kvm', 'kvm-pvm', 'tcg']),
    acceleratorReason: z.string(),
    cpuModel: z.string().describe('As given to QEMU, with features'),
    firmware: z.enum(['direct', 'bios', 'uefi']),
    hardware: vmHardware.describe(
      'Its devices: what the spec asked for, and what was chosen where it asked for nothing',
    ),
    cpuFeatures: z
      .array(z.string())
      .describe('Features of the paravirtual CPU interface that its vCPUs have, as read from them'),
    hotplug: z
      .object({
        baseVcpus: z.int().describe('vCPUs it was started with'),
        maxVcpus: z.int().describe('Most vCPUs without a restart'),
        baseMemoryMib: z.int().describe('Memory it was started with, MiB; less takes a restart'),
        maxMemoryMib: z.int().describe('Most memory without a restart, MiB'),
        slots: z.record(z.string(), z.int()).describe('Slots of disks and NICs on the bus they can be added to'),
        targets: z.record(z.string(), z.int()).describe('SCSI targets of disks, and ports of what is on USB'),
      })
      .optional()
      .describe('What can change while it runs, and where what was added sits'),
    arguments: z.array(z.string()).describe('QEMU’s whole command line'),
  })
  .meta({ id: 'VmPinned' });
export type VmPinned = z.output<typeof vmPinned>;

export const vmExit = z
  .object({
    at: timestamp,
    cause: z
      .enum([
        'guest-shutdown',
        'stopped',
        'forced-off',
        'suspended',
        'hypervisor-died',
        'out-of-memory',
        'host-restarted',
        'guest-panicked',
        'start-failed',
      ])
      .describe(
        'guest-shutdown: the guest powered itself off; stopped, forced-off, suspended: somebody asked for it; out-of-memory: the kernel’s OOM killer ended QEMU',
      ),
    message: z.string(),
  })
  .meta({ id: 'VmExit' });
export type VmExit = z.output<typeof vmExit>;

const pendingValue = z.union([z.string(), z.number(), z.boolean()]).nullable();

/** A change of the spec that the guest doesn't have yet. */
export const pendingChange = z
  .object({
    field: z.string().describe('Of the spec; elements of lists by their name: spec.disks.data.sizeMib'),
    current: pendingValue.describe('What the guest has; null: nothing'),
    wanted: pendingValue.describe('What the spec asks for; null: nothing'),
    reason: z.string().describe('Why it is not so yet'),
    needsRestart: z.boolean().describe('It takes effect at the next start. Otherwise it is being made, or waits'),
  })
  .meta({ id: 'PendingChange' });
export type PendingChange = z.output<typeof pendingChange>;

/** What is wrong with a VM that runs, for as long as it lasts. */
export const vmWarning = z
  .object({
    code: z
      .enum(['tpm-died', 'shared-folders-died', 'shortage'])
      .describe(
        'tpm-died: the process that is its TPM has ended, and the guest has none; shared-folders-died: a process that serves its shared folders has; shortage: it runs without CPUs or memory that it asks for',
      ),
    message: z.string(),
    hint: z.string().describe('What to do'),
  })
  .meta({ id: 'VmWarning' });
export type VmWarning = z.output<typeof vmWarning>;

export const vmStatus = z
  .object({
    state: vmState,
    reason: z.string().describe('Why it is in this state'),
    since: timestamp.describe('When it came into this state'),
    node: z.string().nullable().describe('Node it is on'),
    isUp: z.boolean().describe('The guest itself has reported that it is up, through its agent or its console'),
    upAt: timestamp.nullable(),
    startedAt: timestamp.nullable().describe('Last start'),
    pid: z.int().nullable().describe('Hypervisor process'),
    uid: z.int().nullable().describe('Unprivileged user its process runs as'),
    taskId: z.string().nullable().describe('Task that works on it now'),
    pinned: vmPinned
      .nullable()
      .describe('Options it was started with; kept while stopped so that its hardware stays the same'),
    devices: z
      .array(vmDevice)
      .describe(
        'Its devices with their kind, what the other kind would be, and why: those of its last start, or before it those it would have',
      ),
    disks: z.array(
      z.object({
        name: z.string(),
        volume: z.string().nullable(),
        image: z.string().nullable(),
        sizeMib: z.int().nullable(),
      }),
    ),
    nics: z.array(
      z.object({
        network: z.string(),
        model: z.string(),
        mac: z.string(),
        hostInterface: z.string().nullable().describe('tap on the host; null for user mode'),
        addresses: z.array(z.string()).describe('From leases and the guest agent'),
      }),
    ),
    nicLimits: z.array(nicLimitStatus).describe('How the rates of its NICs are kept, of those that have some'),
    publishedPorts: z.array(publishedPort).describe('Ports of the node that lead to it'),
    guest: z
      .object({
        hasAgent: z.boolean().describe('The agent answered'),
        agentVersion: z.string().nullable(),
        hostname: z.string().nullable(),
        osName: z.string().nullable(),
        kernel: z.string().nullable(),
      })
      .nullable(),
    agentAdvice: agentAdvice
      .nullable()
      .describe('What to do where no agent answers in a guest that has run for a while; null: nothing'),
    clockStaleSince: timestamp
      .nullable()
      .describe(
        'When the guest went on after it had stood still, with a clock that has not been set since: no agent has answered, or it can’t. Null: there is nothing to set',
      ),
    generationId: z
      .string()
      .nullable()
      .describe(
        'VM generation ID, which changes when the VM goes on from a copied or earlier state; null before its first start',
      ),
    consolePanic: z
      .string()
      .nullable()
      .describe(
        'Kernel panic that the guest has shown on its serial console since it was started or reset; a hint: state is what the hypervisor knows',
      ),
    placement: vmPlacement
      .nullable()
      .describe('CPUs of the node that it was given, with the reasons; null while it does not run'),
    bootedOnceFrom: z
      .string()
      .nullable()
      .describe('What it was booted from in place of its boot order, this once; null: by its order'),
    warnings: z.array(vmWarning).describe('What is wrong with it, for as long as it lasts'),
    lineage: vmLineage.nullable().describe('What it was made from; null: it was made on its own'),
    lastExit: vmExit.nullable(),
    restarts: z.object({ count: z.int().describe('Automatic starts in a row'), nextAt: timestamp.nullable() }),
    startedSpec: vmSpec
      .nullable()
      .describe(
        'Spec that is in effect: the one it was started with, and what was changed since. Null while it is stopped',
      ),
    pendingChanges: z.array(pendingChange).describe('What of the spec is not in effect yet, each with the reason'),
    profileChanges: z
      .array(profileChange)
      .describe('What its profiles and instance type have changed to since it took them over; they are taken by apply'),
  })
  .meta({ id: 'VmStatus' });
export type VmStatus = z.output<typeof vmStatus>;

export const vm = z.object({ ...metadata, spec: vmSpec, status: vmStatus }).meta({ id: 'Vm' });
export type Vm = z.output<typeof vm>;

/** A moment's use of resources by a VM. */
export const vmUsage = z
  .object({
    id: z.string(),
    name: z.string(),
    project: z.string(),
    state: vmState,
    cpuPercent: z
      .number()
      .nullable()
      .describe('Of one host CPU, over the last sampling interval; null until there are two samples'),
    memoryMib: z.number().nullable().describe('Resident memory of the hypervisor process, MiB'),
    memoryPrivateMib: z
      .number()
      .nullable()
      .describe('Of that, what no other process has: it would be free again if the VM ended. MiB'),
    memorySharedMib: z
      .number()
      .nullable()
      .describe('Of that, what other processes have too: programs, and what forks have in common. MiB'),
    diskReadBytes: z.number().nullable().describe('Since the start'),
    diskWrittenBytes: z.number().nullable(),
    networkReceivedBytes: z.number().nullable().describe('By the guest, since the start'),
    networkSentBytes: z.number().nullable(),
  })
  .meta({ id: 'VmUsage' });
export type VmUsage = z.output<typeof vmUsage>;

/** What a start boots from, this once. */
const startBody = z.strictObject({ bootOnce }).meta({ id: 'VmStart' });

const stopBody = z
  .strictObject({
    timeoutS: z
      .int()
      .min(0)
      .max(86_400)
      .optional()
      .describe('Seconds before it is switched off; without it, the spec’s stopTimeoutS'),
  })
  .meta({ id: 'VmStop' });

/** Permission, tag, query and errors that every action on a VM has. */
const action = { method: 'POST', tag: 'vms', query: inProject } as const;
const powerErrors = ['not_found', 'wrong_state', 'busy', 'hypervisor_failed', 'host_failed', 'unsupported'] as const;

export const vmRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/vms',
    tag: 'vms',
    summary: 'List VMs',
    permission: 'vm.read',
    query: listQuery,
    response: page('VmPage', vm),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/vms',
    tag: 'vms',
    summary: 'Create a VM',
    permission: 'vm.create',
    query: z.strictObject({
      start: z.stringbool().or(z.boolean()).default(false).describe('Start it when it is made'),
      warm: z
        .stringbool()
        .or(z.boolean())
        .default(false)
        .describe(
          'Go on from the memory of a VM that was prepared from the same image with the same hardware, where there is one; else boot, and the event vm.started-cold says why. With start only',
        ),
    }),
    body: creation('VmCreate', vmSpec),
    status: 202,
    response: task,
    errors: [
      'name_taken',
      'not_found',
      'wrong_state',
      'in_use',
      'insufficient_resources',
      'storage_full',
      'unsupported',
      'host_conflict',
      'idempotency_conflict',
    ],
    isIdempotentByKey: true,
  }),
  get: route({
    method: 'GET',
    path: '/v1/vms/{vm}',
    tag: 'vms',
    summary: 'Read a VM',
    permission: 'vm.read',
    query: inProject,
    response: vm,
    errors: ['not_found'],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/vms/{vm}',
    tag: 'vms',
    summary: 'Change a VM',
    description:
      'What can change while it runs is changed by the task in status.taskId. What can not, or could not, is listed in status.pendingChanges with the reason.',
    permission: 'vm.update',
    query: inProject.extend({
      force: z
        .stringbool()
        .or(z.boolean())
        .default(false)
        .describe('Take out disks that the guest has mounted, and media that it has locked'),
    }),
    body: update('VmUpdate', vmSpec),
    response: vm,
    errors: [
      'not_found',
      'revision_conflict',
      'wrong_state',
      'insufficient_resources',
      'in_use',
      'unsupported',
      'host_conflict',
      'storage_full',
      'host_failed',
    ],
  }),
  rename: route({
    method: 'PATCH',
    path: '/v1/vms/{vm}',
    tag: 'vms',
    summary: 'Give a VM another name',
    description:
      'At any time, also while it runs: networks resolve the new name at once. The disks that were made with the VM are called after it. The running guest’s own host name stays.',
    permission: 'vm.update',
    query: inProject,
    body: z
      .strictObject({
        name: objectName,
        revision: metadata.revision.optional().describe('Revision this change is based on'),
      })
      .meta({ id: 'VmRename' }),
    response: vm,
    errors: ['not_found', 'name_taken', 'revision_conflict', 'wrong_state', 'busy', 'host_failed'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/vms/{vm}',
    tag: 'vms',
    summary: 'Delete a VM and the disks made with it',
    permission: 'vm.delete',
    query: inProject.extend({
      force: z.stringbool().or(z.boolean()).default(false).describe('Switch it off first if it runs'),
    }),
    status: 202,
    response: task,
    errors: ['not_found', 'wrong_state', 'busy'],
  }),
  start: route({
    ...action,
    path: '/v1/vms/{vm}/start',
    summary: 'Start a VM, or resume it from disk',
    permission: 'vm.power',
    body: startBody,
    status: 202,
    response: task,
    errors: [...powerErrors, 'insufficient_resources', 'image_invalid'],
  }),
  stop: route({
    ...action,
    path: '/v1/vms/{vm}/stop',
    summary: 'Shut a VM down by ACPI, and switch it off after a deadline',
    permission: 'vm.power',
    body: stopBody,
    status: 202,
    response: task,
    errors: powerErrors,
  }),
  forceOff: route({
    ...action,
    path: '/v1/vms/{vm}/force-off',
    summary: 'Switch a VM off at once; for a suspended VM, discard its saved state',
    permission: 'vm.power',
    status: 202,
    response: task,
    errors: powerErrors,
  }),
  restart: route({
    ...action,
    path: '/v1/vms/{vm}/restart',
    summary: 'Shut a VM down and start it again with its current spec',
    permission: 'vm.power',
    body: stopBody.extend({ bootOnce }).meta({ id: 'VmRestart' }),
    status: 202,
    response: task,
    errors: powerErrors,
  }),
  reset: route({
    ...action,
    path: '/v1/vms/{vm}/reset',
    summary: 'Reset a VM as its reset button would',
    permission: 'vm.power',
    response: vm,
    errors: powerErrors,
  }),
  pause: route({
    ...action,
    path: '/v1/vms/{vm}/pause',
    summary: 'Stop a VM’s vCPUs; memory stays',
    permission: 'vm.power',
    response: vm,
    errors: powerErrors,
  }),
  resume: route({
    ...action,
    path: '/v1/vms/{vm}/resume',
    summary: 'Let a paused VM run on',
    permission: 'vm.power',
    response: vm,
    errors: powerErrors,
  }),
  resetFirmware: route({
    ...action,
    path: '/v1/vms/{vm}/firmware/reset',
    summary: 'Make the UEFI variable store or the TPM of a stopped VM anew',
    description:
      'What was kept is gone: boot entries and keys that the guest enrolled, or what was sealed in the TPM. Its disks stay. The next start begins with the keys of spec.firmware.secureBoot, or a new TPM.',
    permission: 'vm.update',
    body: firmwareReset,
    response: vm,
    errors: ['not_found', 'wrong_state', 'busy', 'unsupported', 'host_failed'],
  }),
  suspend: route({
    ...action,
    path: '/v1/vms/{vm}/suspend',
    summary: 'Save a VM’s memory to disk and switch it off; start resumes it',
    permission: 'vm.power',
    status: 202,
    response: task,
    errors: [...powerErrors, 'storage_full'],
  }),
  usage: route({
    method: 'GET',
    path: '/v1/vm-usage',
    tag: 'vms',
    summary: 'Read what every running VM uses now',
    permission: 'vm.read',
    response: z.object({ at: timestamp, items: z.array(vmUsage) }).meta({ id: 'VmUsageList' }),
    errors: [],
  }),
  ...vmMetricsRoutes,
  ...vmLatencyRoutes,
  ...vmExitsRoutes,
  ...vmPlacementRoutes,
  log: route({
    method: 'GET',
    path: '/v1/vms/{vm}/log',
    tag: 'vms',
    summary: 'Read what the hypervisor process of a VM printed',
    permission: 'vm.read',
    query: inProject,
    response: bytes('text/plain; charset=utf-8', 'At most the last 256 KiB'),
    errors: ['not_found'],
  }),
  ...vmActionRoutes,
  ...vmCloneRoutes,
  ...vmForkRoutes,
  ...vmConsoleRoutes,
  ...vmGuestRoutes,
  ...vmTunnelRoutes,
  ...vmNetworkRoutes,
} as const satisfies RouteTable;
