// Where a VM's vCPUs, QEMU's own threads and its memory are on the node: what a user may ask for, what Lodge decided with
// its reasons, and what was observed.
import * as z from 'zod';
import { parseNumberList } from '../lib/number-list.ts';
import { invalidField } from './errors.ts';
import { inProject } from './object.ts';
import { route, type RouteTable } from './route.ts';

/** CPUs or NUMA nodes of a node, in the kernel's form. */
export const numberList = (what: string): z.ZodString =>
  z
    .string()
    .max(1000)
    .regex(/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/, `is a list of ${what}: 0-3,8`);

/** Refuses a list whose ranges don't ascend, which its form alone doesn't tell. */
export function requireNumberList(field: string, list: string | undefined): void {
  try {
    parseNumberList(list ?? '');
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw invalidField(field, 'is a list such as 0-3,8, each range ascending', list);
  }
}

const cpuSet = numberList('CPUs of the node');

const vmPin = z
  .strictObject({
    vcpu: z.int().min(0).max(1023).describe('Number of the vCPU, from 0'),
    cpus: cpuSet.describe('CPUs of the node that it may run on: 2 or 2-3,6'),
  })
  .meta({ id: 'VmPin' });

/** Fields of `cpu` that say where and how much it runs. All of them can change while it runs. */
export const vmCpuPlacement = {
  policy: z
    .enum(['shared', 'dedicated'])
    .optional()
    .describe(
      'dedicated: each vCPU has a CPU of its own, chosen by Lodge by NUMA node, cache and core, or by pinning; no other VM of Lodge runs on its cores. Without it, shared. Can change while it runs',
    ),
  pinning: z
    .array(vmPin)
    .max(1024)
    .optional()
    .describe('vCPUs that may run on certain CPUs only. The others run where affinity says. Can change while it runs'),
  affinity: cpuSet
    .optional()
    .describe(
      'CPUs that vCPUs without pinning may run on. Without it, all that belong to no VM alone. Can change while it runs',
    ),
  emulatorAffinity: cpuSet
    .optional()
    .describe(
      'CPUs for what QEMU does besides vCPUs. Without it, with dedicated the housekeeping CPUs of the node, else those of affinity. Can change while it runs',
    ),
  ioThreadAffinity: cpuSet
    .optional()
    .describe('CPUs for the I/O threads of its disks. Without it, those of the emulator. Can change while it runs'),
  weight: z
    .int()
    .min(1)
    .max(10_000)
    .optional()
    .describe(
      'Share of processor time against other VMs when there is not enough. Without it, 100. Can change while it runs',
    ),
  capPercent: z
    .int()
    .min(1)
    .max(102_400)
    .optional()
    .describe(
      'Most processor time, with all that QEMU does, percent of one CPU: 150 is one and a half. Without it, no limit. Can change while it runs',
    ),
};

const numaCell = z
  .strictObject({
    vcpus: numberList('vCPUs').describe('vCPUs of this NUMA node of the guest'),
    memoryMib: z.int().min(1).max(16_777_216).describe('MiB. Those of all together are memoryMib of the VM'),
    hostNode: z
      .int()
      .min(0)
      .max(1023)
      .optional()
      .describe('NUMA node of the node that its memory comes from. Without it, as numa.nodes says'),
  })
  .meta({ id: 'VmNumaCell' });

/** Memory by NUMA nodes. */
export const vmNuma = z
  .strictObject({
    policy: z
      .enum(['strict', 'preferred', 'interleave'])
      .default('strict')
      .describe(
        'strict: all memory comes from these NUMA nodes; preferred: from the first while it has some; interleave: page by page from each in turn',
      ),
    nodes: numberList('NUMA nodes of the node')
      .optional()
      .describe('Without it, those that its vCPUs run on, where the policy is dedicated, pinning or affinity say so'),
    cells: z
      .array(numaCell)
      .min(1)
      .max(64)
      .optional()
      .describe('NUMA nodes that the guest sees. Without it, it sees none'),
  })
  .meta({ id: 'VmNuma' });
export type VmNuma = z.output<typeof vmNuma>;

/** What a VM was given, with the reasons. */
export const vmPlacement = z
  .object({
    policy: z.enum(['shared', 'dedicated']),
    vcpus: z
      .array(z.object({ vcpu: z.int(), cpus: z.string().describe('CPUs of the node that it may run on') }))
      .describe('Each vCPU with where it may run'),
    emulator: z.string().describe('CPUs for everything else that QEMU does'),
    ioThreads: z.string().describe('CPUs for the I/O threads of its disks'),
    exclusiveCpus: z
      .string()
      .describe('CPUs on which no other VM of Lodge runs: all threads of its cores. Empty: it has none alone'),
    numaNodes: z.array(z.int()).describe('NUMA nodes that its vCPUs run on'),
    memory: z
      .object({
        policy: z
          .enum(['default', 'strict', 'preferred', 'interleave'])
          .describe('default: where the kernel puts it, which is near the thread that touches it first'),
        numaNodes: z.array(z.int()),
      })
      .describe('Where its memory comes from'),
    reasons: z.array(z.string()).describe('Why it is so, a sentence each'),
    shortages: z.array(z.string()).describe('What it asks for and does not have, a sentence each'),
  })
  .meta({ id: 'VmPlacement' });
export type VmPlacement = z.output<typeof vmPlacement>;

const thread = z
  .object({
    kind: z.enum(['vcpu', 'io-thread', 'emulator']),
    number: z.int().describe('Of the vCPU or the I/O thread, from 0; of the others, in their order'),
    name: z.string().describe('As the kernel has it: CPU 0/KVM'),
    threadId: z.int().describe('The kernel’s id of it'),
    allowedCpus: z.string().describe('CPUs that it may run on, as the kernel says'),
    lastCpu: z.int().nullable().describe('CPU that it ran on last'),
    cpuSeconds: z.number().nullable().describe('Processor time since it began'),
    wantedCpus: z.string().nullable().describe('CPUs that Lodge gave it; null: any'),
    isAsWanted: z.boolean().describe('The kernel has it as Lodge gave it'),
  })
  .meta({ id: 'VmThread' });
export type VmThread = z.output<typeof thread>;

const limitReport = z
  .object({
    limit: z.string().describe('Field of the spec: cpu.weight, cpu.capPercent'),
    wanted: z.string().nullable().describe('Null: nothing was asked for'),
    observed: z.string().nullable().describe('As the control group’s file says; null: it can’t be read'),
    file: z.string().nullable().describe('File of the control group'),
    reason: z.string().nullable().describe('Why it is not in effect; null: it is'),
  })
  .meta({ id: 'VmLimitReport' });
export type VmLimitReport = z.output<typeof limitReport>;

const pressure = z
  .object({
    resource: z.enum(['cpu', 'memory', 'io']),
    somePercent: z.number().nullable().describe('Time in which at least one of its threads waited'),
    fullPercent: z.number().nullable().describe('Time in which all of them waited'),
    reason: z.string().nullable().describe('Why it is not known; null: it is'),
  })
  .meta({ id: 'VmPressure' });
export type VmPressure = z.output<typeof pressure>;

const vmCpus = z
  .object({
    placement: vmPlacement.nullable().describe('What was decided; null: it runs nowhere'),
    threads: z.array(thread).describe('What was observed, vCPUs first; empty while it does not run'),
    limits: z.array(limitReport).describe('Limits by control groups, as their files say'),
    pressure: z
      .array(pressure)
      .describe(
        'How long the VM has waited, of the last 10 s (PSI), by its control group; empty while it does not run',
      ),
  })
  .meta({ id: 'VmCpus' });
export type VmCpus = z.output<typeof vmCpus>;

export const vmPlacementRoutes = {
  cpus: route({
    method: 'GET',
    path: '/v1/vms/{vm}/cpus',
    tag: 'vms',
    summary: 'Read on which CPUs of its node a VM runs',
    description:
      'What was decided and why, and the threads of its process with where they may run and ran last, as the kernel says at this moment.',
    permission: 'vm.read',
    query: inProject,
    response: vmCpus,
    errors: ['not_found', 'hypervisor_failed', 'host_failed'],
  }),
} as const satisfies RouteTable;
