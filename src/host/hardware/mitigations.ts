// Weaknesses of processors that let one guest read another's or the host's data, and what the kernel does about each.
// Source: the kernel's Documentation/admin-guide/hw-vuln, /sys/devices/system/cpu/vulnerabilities.
import { type HardwareFact, type HardwareGroup } from './fact.ts';
import { type HardwareSource } from './source.ts';

const folder = '/sys/devices/system/cpu/vulnerabilities';

/** Those that cross the border between a guest and others, in one sentence each. */
const ofGuests: Readonly<Record<string, string>> = {
  gather_data_sampling: 'Downfall: data of another program or guest on the same core through gather instructions.',
  indirect_target_selection: 'ITS: branches of the host are steered from a guest.',
  itlb_multihit: 'A guest can halt the machine by changing the size of pages that it runs.',
  l1tf: 'Foreshadow: a guest reads what lies in the first-level cache, also of the other thread of its core.',
  mds: 'Zombieload, RIDL: data in the core’s buffers, also of the other thread.',
  meltdown: 'Kernel memory is read from a program; of paravirtual guests also the hypervisor’s.',
  mmio_stale_data: 'Stale data through device registers, for guests with passed-through devices.',
  reg_file_data_sampling: 'RFDS: data in registers of other guests on Atom cores.',
  retbleed: 'Returns are steered to read memory of the kernel or hypervisor.',
  spec_rstack_overflow: 'Inception (SRSO): returns are steered from a guest on AMD processors.',
  spec_store_bypass: 'Spectre v4: loads see stale data; guests protect themselves when they are given SSBD.',
  spectre_v1: 'Bounds checks are passed by in advance.',
  spectre_v2: 'Branches of the host or of another guest are steered.',
  srbds: 'Random numbers of another core are read.',
  tsa: 'Transient scheduler attacks on AMD processors.',
  tsx_async_abort: 'TAA: like MDS, through aborted transactions.',
  vmscape: 'A guest steers branches of its hypervisor’s user-space process (QEMU).',
};

export function readMitigations(source: HardwareSource): HardwareGroup {
  const facts: HardwareFact[] = source.list(folder).flatMap((name) => {
    const said = source.text(`${folder}/${name}`);
    if (said === null) return [];
    return [
      {
        name,
        title: name.replaceAll('_', ' '),
        isPresent: said !== 'Not affected',
        value: said,
        isUsed: said === 'Not affected' ? null : said.startsWith('Mitigation'),
        explanation: ofGuests[name] ?? 'See the kernel’s admin-guide/hw-vuln.',
        source: `${folder}/${name}`,
      },
    ];
  });
  const smt = source.text('/sys/devices/system/cpu/smt/control');
  if (smt !== null) {
    facts.push({
      name: 'smt',
      title: 'Threads of a core (SMT)',
      isPresent: !['notsupported', 'notimplemented'].includes(smt),
      value: smt,
      isUsed: smt === 'on',
      explanation:
        'Two guests on the two threads of a core share its caches and buffers. Pinning by whole cores keeps them apart.',
      source: '/sys/devices/system/cpu/smt/control',
    });
  }
  return {
    name: 'mitigations',
    title: 'Weaknesses of the processor',
    explanation:
      'Here “there” means that the processor has the weakness, and “used” that the kernel does something about it.',
    facts,
  };
}
