// What a node's hardware can do for guests, and whether the node is fit to run them: facts with their meaning and source,
// and checks with what to do about each.
import * as z from 'zod';

const hardwareFact = z
  .object({
    name: z.string().describe('A word for programs: ept-1gib-pages'),
    title: z.string().describe('The makers’ own term'),
    isPresent: z.boolean().nullable().describe('The hardware has it; null: it can’t be told here'),
    value: z.string().nullable().describe('A number or a text that belongs to it, with its unit'),
    isUsed: z.boolean().nullable().describe('The kernel makes use of it; null: it doesn’t say'),
    explanation: z.string().describe('What it does for a guest'),
    source: z.string().describe('Where it was read: register, leaf or file, with the manual’s place'),
  })
  .meta({ id: 'HardwareFact' });

const hardwareGroup = z
  .object({
    name: z.enum(['vt-x', 'amd-v', 'kvm', 'iommu', 'confidential', 'mitigations']),
    title: z.string(),
    explanation: z.string(),
    facts: z.array(hardwareFact),
  })
  .meta({ id: 'HardwareGroup' });

export const nodeHardware = z
  .object({
    vendor: z.string().describe('As CPUID says it: GenuineIntel, AuthenticAMD'),
    model: z.string(),
    signature: z.string().nullable().describe('Family, model and stepping'),
    microcode: z.string().nullable(),
    isVirtualMachine: z.boolean().describe('The node is itself a guest of a hypervisor'),
    assistance: z
      .object({
        technology: z.enum(['vt-x', 'amd-v']).nullable().describe('What processors of this maker have'),
        isPresent: z.boolean().nullable().describe('The processor has it, switched on or not; null: it can’t be told'),
        isUsable: z.boolean().describe('KVM runs guests with it'),
        cause: z.enum([
          'usable',
          'switched-off-by-firmware',
          'not-in-processor',
          'not-passed-to-this-vm',
          'module-not-loaded',
          'no-module',
          'no-device',
          'no-permission',
        ]),
        reason: z.string(),
        remedy: z.string().nullable().describe('What to do; null: nothing is to be done, or nothing can be'),
      })
      .describe('Hardware assistance: whether guests run with it, and what is in the way'),
    groups: z.array(hardwareGroup),
    sriovDevices: z
      .array(
        z.object({
          address: z.string().describe('PCI address: 0000:3b:00.0'),
          id: z.string().describe('Vendor and device: 8086:1592'),
          driver: z.string().nullable(),
          links: z.array(z.string()).describe('Its network links'),
          functionsMax: z.int().describe('Virtual functions it can have'),
          functions: z.int().describe('Virtual functions it has now'),
          iommuGroup: z.int().nullable(),
          numaNode: z.int().nullable(),
        }),
      )
      .describe('Devices that can be shared out as virtual functions (SR-IOV)'),
  })
  .meta({ id: 'NodeHardware' });
export type NodeHardware = z.output<typeof nodeHardware>;

export const nodeCheck = z
  .object({
    name: z.string().describe('A word for programs: hardware-assistance'),
    title: z.string(),
    result: z
      .enum(['pass', 'note', 'warn', 'fail'])
      .describe(
        'pass: as it should be; note: something optional is not there; warn: guests run, but slower or less safely; fail: guests can’t run, or not as they should',
      ),
    reason: z.string().describe('What was seen'),
    remedy: z.string().nullable().describe('The command or the setting that changes it; null: there is nothing to do'),
  })
  .meta({ id: 'NodeCheck' });
export type NodeCheck = z.output<typeof nodeCheck>;

export const nodeChecks = z
  .object({
    result: z.enum(['pass', 'note', 'warn', 'fail']).describe('The worst of all'),
    checks: z.array(nodeCheck),
  })
  .meta({ id: 'NodeChecks' });
export type NodeChecks = z.output<typeof nodeChecks>;
