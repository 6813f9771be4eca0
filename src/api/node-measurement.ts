// What leaving a guest costs on a node, measured by a guest: for each kind of VM exit, on each rung of the accelerator
// ladder. What the kinds are is said here once, for all clients.
import * as z from 'zod';
import { timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';

/** What a kind of exit is. `vmx` and `svm`: names and numbers of its reason, by Intel's and AMD's manuals. */
interface ExitKind {
  title: string;
  meaning: string;
  vmx: string;
  svm: string;
}

/**
 * The kinds that are timed. Sources: Intel SDM volume 3, appendix C, “VMX Basic Exit Reasons”; AMD64 APM volume 2, appendix C,
 * “SVM Intercept Exit Codes”.
 */
export const exitOperations = {
  none: {
    title: 'no exit',
    meaning:
      'NOP in a loop: it never leaves the guest. Where it costs more than some nanoseconds, the guest’s kernel code is not run but interpreted',
    vmx: '-',
    svm: '-',
  },
  cpuid: {
    title: 'CPUID',
    meaning: 'The guest asks what its processor is; KVM answers by itself. The plainest exit there is: way out, way in',
    vmx: '10 CPUID',
    svm: '0x72 VMEXIT_CPUID',
  },
  portKernel: {
    title: 'port, in the kernel',
    meaning: 'Read of an I/O port of a device that KVM plays itself: the mask of the interrupt controller, port 0x21',
    vmx: '30 I/O instruction',
    svm: '0x7B VMEXIT_IOIO',
  },
  portQemu: {
    title: 'port, in QEMU',
    meaning: 'Write to an I/O port that QEMU plays (0x80): out to the kernel, on to QEMU, and all the way back',
    vmx: '30 I/O instruction',
    svm: '0x7B VMEXIT_IOIO',
  },
  mmioKernel: {
    title: 'device memory, in the kernel',
    meaning: 'Read of a register of the local APIC. With APICv or AVIC the processor answers it without an exit',
    vmx: '44 APIC access',
    svm: '0x400 VMEXIT_NPF, 0x402 VMEXIT_AVIC_NOACCEL',
  },
  mmioQemu: {
    title: 'device memory, in QEMU',
    meaning: 'Read of a register of the HPET, which QEMU plays: KVM has to interpret the instruction first',
    vmx: '49 EPT misconfiguration',
    svm: '0x400 VMEXIT_NPF',
  },
  msrRead: {
    title: 'RDMSR',
    meaning: 'Read of a model-specific register (IA32_PAT) that KVM keeps for the guest',
    vmx: '31 RDMSR',
    svm: '0x7C VMEXIT_MSR',
  },
  msrWrite: {
    title: 'WRMSR',
    meaning: 'Write of the same',
    vmx: '32 WRMSR',
    svm: '0x7C VMEXIT_MSR',
  },
  ipi: {
    title: 'IPI',
    meaning:
      'An inter-processor interrupt that a vCPU sends to itself, until its handler has run and said so: the sending, the delivery, the end of interrupt',
    vmx: '44 APIC access, 56 APIC write',
    svm: '0x400 VMEXIT_NPF, 0x401 VMEXIT_AVIC_INCOMPLETE_IPI',
  },
  halt: {
    title: 'HLT',
    meaning:
      'The vCPU has nothing to do and gives its processor away; an IPI that waits already wakes it, and is in the time',
    vmx: '12 HLT',
    svm: '0x78 VMEXIT_HLT',
  },
  firstTouch: {
    title: 'first touch of memory',
    meaning:
      'Write to a page that nobody has used yet: second-level paging has no entry, and the kernel has to find a page of 4 KiB',
    vmx: '48 EPT violation',
    svm: '0x400 VMEXIT_NPF',
  },
  hypercall: {
    title: 'hypercall',
    meaning: 'VMCALL or VMMCALL: the guest calls its hypervisor on purpose, with a call that does nothing',
    vmx: '18 VMCALL',
    svm: '0x81 VMEXIT_VMMCALL',
  },
} as const satisfies Readonly<Record<string, ExitKind>>;
export type ExitOperationName = keyof typeof exitOperations;

const operationName = z.enum(Object.keys(exitOperations) as [ExitOperationName, ...ExitOperationName[]]);
const ns = (what: string) => z.number().describe(`${what}, nanoseconds`);

export const exitCost = z
  .object({
    operation: operationName,
    medianNs: ns('Median of the samples'),
    lowNs: ns('A quarter of the samples lies below'),
    highNs: ns('A quarter of the samples lies above'),
    leastNs: ns('The least of them'),
    samples: z.int().describe('Each is the mean of a batch'),
  })
  .meta({ id: 'ExitCost' });
export type ExitCost = z.output<typeof exitCost>;

export const rungExits = z
  .object({
    rung: z.enum(['kvm', 'kvm-pvm', 'tcg']),
    cpuModel: z.string().nullable(),
    costs: z.array(exitCost),
    missing: z
      .array(z.object({ operation: operationName, reason: z.string() }))
      .describe('What could not be measured, and why'),
    problem: z.string().nullable().describe('Why nothing could be measured on this rung'),
  })
  .meta({ id: 'RungExits' });
export type RungExits = z.output<typeof rungExits>;

export const nodeMeasurement = z
  .object({
    at: timestamp,
    taskId: z.string(),
    kernel: z.string(),
    hypervisor: z.string().describe('Name and version: qemu 10.0.2'),
    processor: z.string(),
    loadAverage: z
      .number()
      .describe('Of the last minute, when it began: other work makes exits dearer and their spread wider'),
    rungs: z.array(rungExits),
  })
  .meta({ id: 'NodeMeasurement' });
export type NodeMeasurement = z.output<typeof nodeMeasurement>;

/** How many measurements of a node are kept. */
export const keptMeasurements = 20;

export const nodeMeasurementRoutes = {
  measure: route({
    method: 'POST',
    path: '/v1/nodes/{node}/measure',
    tag: 'nodes',
    summary: 'Measure what leaving a guest costs, on each rung of the accelerator ladder',
    description:
      'A guest of Lodge’s own times each kind of VM exit by the time stamp counter: some seconds on one processor. Other guests run on, and make it less exact.',
    permission: 'node.update',
    status: 202,
    response: task,
    errors: ['not_found', 'busy'],
  }),
  measurements: route({
    method: 'GET',
    path: '/v1/nodes/{node}/measurements',
    tag: 'nodes',
    summary: 'Read what was measured of leaving a guest',
    description: `The newest first; the last ${keptMeasurements} are kept.`,
    permission: 'node.read',
    response: z.object({ items: z.array(nodeMeasurement) }).meta({ id: 'NodeMeasurementList' }),
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
