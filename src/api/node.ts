// Nodes: the machines that run guests, what they have, and what they can do with the reasons.
import * as z from 'zod';
import { nodeMetricsRoutes } from './metrics.ts';
import { nodeMeasurementRoutes } from './node-measurement.ts';
import { nodeChecks, nodeHardware } from './node-hardware.ts';
import { nodePlacementFields } from './node-placement.ts';
import { nodeTopology } from './node-topology.ts';
import { listQuery, metadata, page, timestamp, update } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { hostSetting } from './vm-memory.ts';
import { task } from './task.ts';

export const nodeSpec = z
  .strictObject({
    acceptsGuests: z
      .boolean()
      .default(true)
      .describe('Whether VMs may be started here; false takes the node out for maintenance, what runs stays'),
    ...nodePlacementFields,
    ksm: z
      .enum(['off', 'on', 'auto'])
      .optional()
      .describe(
        'Equal pages of VMs are merged (KSM); a VM can be left out by memoryBacking.isMergeable. on: at the kernel’s own pace. auto: the pace rises while the node is short of memory, and falls when there is enough. off: as the machine had it. Without it, off',
      ),
  })
  .meta({ id: 'NodeSpec' });
export type NodeSpec = z.output<typeof nodeSpec>;

/** One rung of the accelerator ladder: what a probe guest showed. */
export const acceleratorRung = z
  .object({
    rung: z
      .enum(['kvm', 'kvm-pvm', 'tcg'])
      .describe(
        'kvm: hardware virtualization (VT-x, AMD-V); kvm-pvm: KVM without it (page-table virtual machine); tcg: emulation by QEMU',
      ),
    isUsable: z.boolean().describe('A probe guest ran in it'),
    isForOrdinaryGuests: z
      .boolean()
      .describe('An ordinary operating system runs well in it, so that accelerator "auto" may choose it'),
    reason: z.string().describe('What was seen'),
    cpuModel: z.string().nullable().describe('CPU model the probe guest ran with'),
    startMs: z
      .number()
      .nullable()
      .describe('From the start of QEMU until the probe guest was in long mode, milliseconds'),
    costs: z.record(z.string(), z.number()).describe('Measured cost of operations in the guest, nanoseconds each'),
  })
  .meta({ id: 'AcceleratorRung' });
export type AcceleratorRung = z.output<typeof acceleratorRung>;

export const driverStatus = z
  .object({
    name: z.string().describe('qemu, fake, xen, vsphere'),
    version: z.string().nullable(),
    isReady: z.boolean(),
    reason: z.string().describe('Why it is ready or not'),
    capabilities: z
      .record(z.string(), z.object({ isSupported: z.boolean(), reason: z.string() }))
      .describe('What the driver can do here, and why not'),
    machines: z.array(z.string()).describe('Machine types that can be given'),
    cpuModels: z.array(z.string()).describe('CPU models that can be given'),
  })
  .meta({ id: 'DriverStatus' });
export type DriverStatus = z.output<typeof driverStatus>;

export const nodeStatus = z
  .object({
    state: z.enum(['starting', 'ready', 'degraded', 'stopping', 'offline']),
    problems: z.array(z.string()).describe('What is missing or wrong, one sentence each, with what to do'),
    hostname: z.string(),
    kernel: z.string(),
    operatingSystem: z.string(),
    lodgeVersion: z.string(),
    bootId: z.string(),
    startedAt: timestamp.describe('Start of the daemon'),
    cpu: z.object({
      model: z.string(),
      vendor: z.string(),
      count: z.int(),
      sockets: z.int(),
      coresPerSocket: z.int(),
      threadsPerCore: z.int(),
      virtualization: z.enum(['vmx', 'svm', 'none']).describe('Hardware assistance the processor shows'),
    }),
    memory: z.object({
      totalMib: z.int(),
      availableMib: z.int(),
      guestsMib: z.int().describe('Memory given to running guests'),
    }),
    storage: z.object({ path: z.string(), totalMib: z.int(), freeMib: z.int() }),
    cgroup: z.object({ version: z.enum(['v1', 'v2', 'none']), controllers: z.array(z.string()), reason: z.string() }),
    accelerators: z.array(acceleratorRung),
    accelerator: z
      .object({ chosen: z.enum(['kvm', 'tcg']), rung: z.enum(['kvm', 'kvm-pvm', 'tcg']), reason: z.string() })
      .nullable()
      .describe('What accelerator "auto" means here; null until the probe has run'),
    driver: driverStatus,
    hostSettings: z
      .array(hostSetting)
      .optional()
      .describe('Settings of the machine that Lodge has changed, with what they were'),
    guests: z.object({ defined: z.int(), running: z.int() }),
    load: z.object({ cpuPercent: z.number().describe('Of the whole machine'), loadAverage: z.number() }),
  })
  .meta({ id: 'NodeStatus' });
export type NodeStatus = z.output<typeof nodeStatus>;

export const node = z.object({ ...metadata, spec: nodeSpec, status: nodeStatus }).meta({ id: 'Node' });
export type Node = z.output<typeof node>;

export const nodeRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/nodes',
    tag: 'nodes',
    summary: 'List nodes',
    permission: 'node.read',
    query: listQuery,
    response: page('NodePage', node),
    errors: [],
  }),
  get: route({
    method: 'GET',
    path: '/v1/nodes/{node}',
    tag: 'nodes',
    summary: 'Read a node',
    description: 'The name "self" stands for the node that answers.',
    permission: 'node.read',
    response: node,
    errors: ['not_found'],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/nodes/{node}',
    tag: 'nodes',
    summary: 'Change a node',
    permission: 'node.update',
    body: update('NodeUpdate', nodeSpec),
    response: node,
    errors: ['not_found', 'revision_conflict'],
  }),
  hardware: route({
    method: 'GET',
    path: '/v1/nodes/{node}/hardware',
    tag: 'nodes',
    summary: 'Read what a node’s hardware can do for guests',
    description:
      'VT-x or AMD-V with their abilities, KVM, IOMMU, SR-IOV, confidential computing and the weaknesses of the processor, each with its meaning and where it was read. It is read anew each time.',
    permission: 'node.read',
    response: nodeHardware,
    errors: ['not_found'],
  }),
  topology: route({
    method: 'GET',
    path: '/v1/nodes/{node}/topology',
    tag: 'nodes',
    summary: 'Read how a node’s processors and memory are arranged',
    description:
      'Sockets, dies, cores and threads with their frequencies, the caches with who shares them, and the NUMA nodes with their memory, distances and huge pages. It is read anew each time.',
    permission: 'node.read',
    response: nodeTopology,
    errors: ['not_found'],
  }),
  check: route({
    method: 'GET',
    path: '/v1/nodes/{node}/check',
    tag: 'nodes',
    summary: 'Check whether a node is fit to run guests',
    description: 'Each check with its result, what was seen, and what to do. Nothing is changed.',
    permission: 'node.read',
    response: nodeChecks,
    errors: ['not_found'],
  }),
  ...nodeMetricsRoutes,
  ...nodeMeasurementRoutes,
  probe: route({
    method: 'POST',
    path: '/v1/nodes/{node}/probe',
    tag: 'nodes',
    summary: 'Run the probe guests again and choose the accelerator anew',
    permission: 'node.update',
    response: node,
    errors: ['not_found', 'busy'],
  }),
  stopGuests: route({
    method: 'POST',
    path: '/v1/nodes/{node}/stop-guests',
    tag: 'nodes',
    summary: 'Shut down every guest of a node, all at once; for the shutdown of the machine',
    permission: 'vm.power',
    status: 202,
    response: task,
    errors: ['not_found', 'busy'],
  }),
} as const satisfies RouteTable;
