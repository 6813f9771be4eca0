// What of a node is kept for the machine itself, and how far its processors and memory may be promised more than once.
import * as z from 'zod';
import { numberList } from './vm-placement.ts';

export const nodePlacementFields = {
  housekeepingCpus: numberList('CPUs of the node')
    .optional()
    .describe(
      'CPUs for the machine itself and for what QEMU does besides vCPUs; dedicated VMs get none of them. Without it, the first core',
    ),
  overcommit: z
    .strictObject({
      vcpusPerCpuWarning: z
        .int()
        .min(1)
        .max(1000)
        .optional()
        .describe('vCPUs of running VMs for each CPU above which lodge node check warns. Without it, 4'),
      vcpusPerCpuLimit: z
        .int()
        .min(1)
        .max(1000)
        .optional()
        .describe('vCPUs of running VMs for each CPU above which no VM is started. Without it, no limit'),
      memoryWarningPercent: z
        .int()
        .min(1)
        .max(10_000)
        .optional()
        .describe('Memory of running VMs, percent of the node’s, above which lodge node check warns. Without it, 100'),
      memoryLimitPercent: z
        .int()
        .min(1)
        .max(10_000)
        .optional()
        .describe('Memory of running VMs, percent of the node’s, above which no VM is started. Without it, 200'),
    })
    .optional()
    .describe('How far processors and memory may be promised to more than one VM'),
};
