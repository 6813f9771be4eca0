// What a guest's CPU says of the hypervisor under it: KVM's leaves, Hyper-V enlightenments, or nothing. An emulated CPU
// has neither: QEMU's emulation (TCG) implements none of them, whatever its command line says.
// Sources: https://docs.kernel.org/virt/kvm/x86/cpuid.html, https://www.qemu.org/docs/master/system/i386/hyperv.html
import { type CpuInterface } from '../../api/vm-hardware.ts';
import { QmpError } from './qmp/errors.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** Features of KVM's interface that Lodge asks for. A KVM that lacks one leaves it out, with a warning of QEMU's. */
const kvmFeatures = [
  'kvmclock',
  'kvm-asyncpf',
  'kvm-steal-time',
  'kvm-pv-eoi',
  'kvm-pv-unhalt',
  'kvm-pv-tlb-flush',
  'kvm-pv-ipi',
  'kvm-pv-sched-yield',
] as const;

/**
 * The enlightenments that QEMU's documentation recommends for Windows; each in the list after those it depends on.
 * A KVM that lacks one refuses to start.
 */
const hyperVFeatures = [
  'hv-relaxed',
  'hv-vapic',
  'hv-vpindex',
  'hv-runtime',
  'hv-time',
  'hv-synic',
  'hv-stimer',
  'hv-reset',
  'hv-frequencies',
  'hv-tlbflush',
  'hv-ipi',
] as const;
/** Attempts to take a spinlock before Windows tells the hypervisor; the value of QEMU's documentation. */
const hyperVSpinlocks = 'hv-spinlocks=0x1fff';

/**
 * What is added to the CPU model of -cpu, beginning with a comma, or nothing. `hasHyperV`: this KVM knows Hyper-V's
 * interface. One built without (CONFIG_KVM_HYPERV) makes QEMU abort, or, worse, leaves out what QEMU then claims to give.
 */
export function interfaceOptions(model: CpuInterface, accelerator: 'kvm' | 'tcg', hasHyperV: boolean): string {
  const options: string[] = [];
  if (accelerator === 'tcg') {
    // Emulation has a signature of its own in the hypervisor's leaves, but nothing behind it.
    if (model === 'none') options.push('hypervisor=off', 'tcg-cpuid=off');
  } else if (model === 'none') options.push('hypervisor=off', 'kvm=off');
  else if (model === 'kvm') options.push(...kvmFeatures.map((feature) => `${feature}=on`));
  else if (hasHyperV) options.push(...hyperVFeatures.map((feature) => `${feature}=on`), hyperVSpinlocks);
  return options.map((option) => `,${option}`).join('');
}

/** The features of the interface that the first vCPU has, as read from it. */
export async function readInterface(
  qmp: QmpConnection,
  model: CpuInterface,
  accelerator: 'kvm' | 'tcg',
): Promise<string[]> {
  if (accelerator === 'tcg' || model === 'none') return [];
  const [first] = await qmp.execute('query-cpus-fast');
  if (!first) return [];
  const found: string[] = [];
  for (const property of model === 'kvm' ? kvmFeatures : hyperVFeatures) {
    try {
      if ((await qmp.execute('qom-get', { path: first['qom-path'], property })) === true) found.push(property);
    } catch (error) {
      // An older QEMU doesn't know it, and so doesn't give it.
      if (!(error instanceof QmpError)) throw error;
    }
  }
  return found;
}
