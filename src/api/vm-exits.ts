// Why a running guest leaves to its hypervisor, and how often: watched for some seconds. Under emulation, what the emulator
// counts instead.
import * as z from 'zod';
import { inProject, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';

/** The longest that a guest is watched, seconds. */
export const maxWatchS = 30;

const exitCounter = z
  .object({
    name: z.string().describe('As the kernel or QEMU calls it'),
    meaning: z.string().describe('Empty: Lodge does not know it'),
    total: z.number().describe('Since the guest was started'),
    perS: z.number().nullable().describe('In the time it was watched; null: it does not grow, or fell'),
  })
  .meta({ id: 'ExitCounter' });
export type ExitCounter = z.output<typeof exitCounter>;

const exitReason = z
  .object({
    event: z.string().describe('Trace event of the kernel: kvm_exit, kvm_userspace_exit, kvm_pio, …'),
    reason: z.string().describe('As the kernel calls it: IO_INSTRUCTION, npf, KVM_EXIT_MMIO, write 0x80'),
    meaning: z.string(),
    count: z.int().describe('Of the events that were looked at'),
    perS: z.number(),
  })
  .meta({ id: 'ExitReason' });
export type ExitReason = z.output<typeof exitReason>;

export const vmExits = z
  .object({
    at: timestamp,
    accelerator: z.enum(['kvm', 'tcg']),
    watchedS: z.number(),
    counters: z.array(exitCounter),
    trace: z
      .object({
        events: z.int().describe('That happened in this time'),
        seen: z.int().describe('Of them, those that were looked at: the last ones, where there were too many'),
        reasons: z.array(exitReason),
      })
      .nullable(),
    steal: z
      .object({
        seconds: z.number().describe('Since the guest was started, summed over its vCPUs'),
        percent: z.number().nullable().describe('In the time it was watched, of one processor'),
      })
      .nullable()
      .describe('Time in which vCPUs could have run and waited for a processor'),
    dirtyMibPerS: z.number().nullable().describe('Memory that the guest changes, estimated from samples; MiB a second'),
    missing: z
      .array(z.object({ what: z.string(), reason: z.string() }))
      .describe('What could not be told here, and what would help'),
  })
  .meta({ id: 'VmExits' });
export type VmExits = z.output<typeof vmExits>;

export const vmExitsRoutes = {
  exits: route({
    method: 'GET',
    path: '/v1/vms/{vm}/exits',
    tag: 'vms',
    summary: 'Watch why a running VM leaves to its hypervisor',
    description:
      'Counters of KVM and their growth; with "trace", the reasons by trace events of the kernel. The answer comes when the time is over.',
    permission: 'vm.read',
    query: inProject.extend({
      watchS: z.coerce
        .number<number | string>()
        .int()
        .min(1)
        .max(maxWatchS)
        .default(1)
        .describe('How long it is watched, seconds'),
      trace: z.stringbool().or(z.boolean()).default(false).describe('Tell reasons too; it makes exits a little dearer'),
    }),
    response: vmExits,
    errors: ['not_found', 'wrong_state', 'busy', 'hypervisor_failed'],
  }),
} as const satisfies RouteTable;
