// Whether a node is fit to run guests: one check after the other over what was read of it, each with what to do. Pure but
// for the reading through its HardwareSource; it changes nothing.
import { type NodeCheck, type NodeChecks } from '../../api/node-hardware.ts';
import { type Node } from '../../api/node.ts';
import { type HardwareFact } from '../../host/hardware/fact.ts';
import { type HardwareFacts } from '../../host/hardware/hardware.ts';
import { type HardwareSource } from '../../host/hardware/source.ts';

export interface CheckedNode {
  node: Node;
  hardware: HardwareFacts;
  source: HardwareSource;
  /** Type of the file system that Lodge's data is on, as in /proc/self/mountinfo; null: unknown. */
  dataFileSystem: string | null;
  /** vCPUs of VMs that run. */
  guestVcpus?: number;
}

type Check = Omit<NodeCheck, 'name' | 'title'>;

const worstFirst = ['fail', 'warn', 'note', 'pass'] as const;

const pass = (reason: string): Check => ({ result: 'pass', reason, remedy: null });
const note = (reason: string, remedy: string | null): Check => ({ result: 'note', reason, remedy });
const warn = (reason: string, remedy: string | null): Check => ({ result: 'warn', reason, remedy });
const fail = (reason: string, remedy: string | null): Check => ({ result: 'fail', reason, remedy });

export function checkNode(checked: CheckedNode): NodeChecks {
  const checks: NodeCheck[] = [];
  for (const [name, title, look] of table) {
    const found = look(checked);
    if (found) checks.push({ name, title, ...found });
  }
  const result = worstFirst.find((each) => checks.some((check) => check.result === each)) ?? 'pass';
  return { result, checks };
}

/** A check that says nothing has nothing to look at here. */
const table: readonly (readonly [name: string, title: string, look: (checked: CheckedNode) => Check | null])[] = [
  ['hypervisor', 'Hypervisor', hypervisor],
  ['accelerator', 'Accelerator', accelerator],
  ['hardware-assistance', 'Hardware assistance', assistance],
  ['second-level-paging', 'Second-level paging (EPT, NPT)', secondLevelPaging],
  ['nested', 'Nested virtualization', nested],
  ['uefi', 'UEFI firmware', (checked) => capability(checked, 'uefi')],
  ['secure-boot', 'Secure Boot', (checked) => capability(checked, 'secureBoot')],
  ['tpm', 'Virtual TPM', (checked) => capability(checked, 'tpm')],
  ['fork', 'Forks of running guests', (checked) => capability(checked, 'fork')],
  ['tap', 'Network links for guests', tap],
  ['vhost-net', 'Network in the kernel (vhost-net)', vhostNet],
  ['iommu', 'IOMMU', iommu],
  ['interrupt-remapping', 'Interrupt remapping', interruptRemapping],
  ['cgroups', 'Control groups', cgroups],
  ['pressure', 'Pressure (PSI)', pressure],
  ['overcommit', 'Promises of memory', overcommit],
  ['promises', 'vCPUs and memory promised to VMs', promises],
  ['huge-pages', 'Transparent huge pages', transparentHugePages],
  ['clock', 'Clock', clock],
  ['mitigations', 'Weaknesses of the processor', mitigations],
  ['smt', 'Guests on one core (SMT)', smt],
  ['storage', 'Room for disks', storage],
  ['file-system', 'File system of the data', fileSystem],
  ['maintenance', 'Takes guests', maintenance],
];

function hypervisor({ node }: CheckedNode): Check {
  const { driver } = node.status;
  return driver.isReady
    ? pass(driver.reason)
    : fail(driver.reason, driver.name === 'qemu' ? 'apt-get install qemu-system-x86, or npm start' : null);
}

function accelerator({ node }: CheckedNode): Check {
  const { accelerator: chosen } = node.status;
  if (!chosen) return fail('No accelerator ran the probe guest, or the probe has not run yet.', 'lodge node probe');
  return chosen.chosen === 'kvm'
    ? pass(chosen.reason)
    : warn(
        'Guests run by emulation (TCG), several times slower. lodge node show says what was tried.',
        'See “Hardware assistance”; after a change: lodge node probe',
      );
}

function assistance({ hardware }: CheckedNode): Check {
  const { isUsable, reason, remedy, cause } = hardware.assistance;
  if (isUsable) return pass(reason);
  // What nobody can change on this machine is no warning of its own: "accelerator" tells what follows from it.
  return cause === 'not-in-processor' ? note(reason, remedy) : warn(reason, remedy);
}

function factOf({ hardware }: CheckedNode, name: string): HardwareFact | null {
  for (const { facts } of hardware.groups) {
    const found = facts.find((fact) => fact.name === name);
    if (found) return found;
  }
  return null;
}

function secondLevelPaging(checked: CheckedNode): Check | null {
  if (!checked.hardware.assistance.isUsable) return null;
  const fact = factOf(checked, 'ept') ?? factOf(checked, 'nested-paging');
  if (!fact) return null;
  const module = fact.name === 'ept' ? 'kvm_intel' : 'kvm_amd';
  const parameter = fact.name === 'ept' ? 'ept' : 'npt';
  if (fact.isPresent && fact.isUsed === false) {
    return warn(
      `The processor has ${fact.title}, but ${module} does not use them: guests pay for each change of their page tables.`,
      `modprobe -r ${module} && modprobe ${module} ${parameter}=1, and look for "${parameter}=0" in /etc/modprobe.d`,
    );
  }
  return fact.isPresent === false
    ? warn(`The processor has no ${fact.title}: KVM keeps shadow page tables.`, null)
    : pass(`${fact.title}: there${fact.isUsed ? ' and used' : ''}.`);
}

function nested(checked: CheckedNode): Check | null {
  const fact = factOf(checked, 'nested');
  if (!fact) return null;
  const module = checked.hardware.assistance.technology === 'vt-x' ? 'kvm_intel' : 'kvm_amd';
  return fact.isUsed
    ? pass('Guests with the CPU model “host” can run guests of their own.')
    : note(
        'It is off: guests can’t run guests of their own with hardware assistance.',
        `echo "options ${module} nested=1" > /etc/modprobe.d/kvm-nested.conf, stop all VMs, modprobe -r ${module}, modprobe ${module}`,
      );
}

function capability({ node }: CheckedNode, name: string): Check | null {
  const found = node.status.driver.capabilities[name];
  if (!found) return null;
  return found.isSupported ? pass(found.reason) : warn(found.reason, null);
}

function tap({ source, node }: CheckedNode): Check | null {
  if (node.status.driver.name !== 'qemu') return null;
  const problem = source.openProblem('/dev/net/tun');
  if (problem === null) return pass('/dev/net/tun can be opened.');
  return fail(
    `/dev/net/tun can't be opened (${problem}): guests have no network.`,
    problem === 'ENOENT'
      ? 'modprobe tun; in a container, pass the device in (--device /dev/net/tun)'
      : 'Run the daemon as root; in a container, give it CAP_NET_ADMIN and the device.',
  );
}

function vhostNet({ source, node }: CheckedNode): Check | null {
  // It moves packets into a guest's memory while the guest runs, which only KVM's guests let it do.
  if (node.status.accelerator?.chosen !== 'kvm') return null;
  return source.openProblem('/dev/vhost-net') === null
    ? pass('The kernel moves packets between guests and links by itself.')
    : warn('QEMU moves each packet by itself: about half the throughput.', 'modprobe vhost_net');
}

function iommu(checked: CheckedNode): Check {
  const fact = factOf(checked, 'iommu');
  if (fact?.isUsed) return pass(`Devices can be given to guests: ${fact.value ?? fact.title}.`);
  const isIntel = checked.hardware.vendor === 'GenuineIntel';
  return note(
    fact?.isPresent
      ? 'Firmware has an IOMMU, but the kernel does not use it: devices can’t be given to guests.'
      : 'There is none, or firmware has switched it off: devices can’t be given to guests.',
    fact?.isPresent
      ? `Add ${isIntel ? 'intel_iommu=on iommu=pt' : 'iommu=pt'} to the kernel’s command line (GRUB_CMDLINE_LINUX, update-grub), and restart the machine.`
      : `If it is wanted, switch ${isIntel ? '“VT-d”' : '“IOMMU”'} on in the firmware’s set-up${isIntel ? ', and add intel_iommu=on to the kernel’s command line' : ''}.`,
  );
}

function interruptRemapping(checked: CheckedNode): Check | null {
  if (!factOf(checked, 'iommu')?.isUsed) return null;
  return factOf(checked, 'interrupt-remapping')?.isUsed
    ? pass('Interrupts of passed-through devices are checked.')
    : warn(
        'Interrupts of devices are not remapped: VFIO refuses to give devices to guests.',
        'Switch x2APIC and interrupt remapping on in the firmware’s set-up; look for "intremap=off" on the kernel’s command line.',
      );
}

function cgroups({ node }: CheckedNode): Check {
  const { version, controllers, reason } = node.status.cgroup;
  if (version === 'none') return warn(`Guests can't be limited or weighed: ${reason}`, null);
  const missing = ['cpu', 'memory', 'pids'].filter((name) => !controllers.includes(name));
  return missing.length === 0
    ? pass(`${version}: ${controllers.join(', ')}.`)
    : warn(
        `${version}, without ${missing.join(', ')}: ${reason}`,
        'Run the daemon as the unit docs/lodge.service (Delegate=yes hands the controllers down).',
      );
}

function pressure({ source }: CheckedNode): Check {
  return source.text('/proc/pressure/memory') === null
    ? note(
        'The kernel does not tell when work waits for processors, memory or disks.',
        'Add psi=1 to the kernel’s command line, and restart the machine.',
      )
    : pass('The kernel tells when work waits.');
}

function overcommit({ source }: CheckedNode): Check | null {
  const policy = source.text('/proc/sys/vm/overcommit_memory');
  if (policy === null) return null;
  return policy === '2'
    ? warn(
        'The kernel promises no more memory than there is (vm.overcommit_memory=2): guests may fail to start, forks in particular.',
        'sysctl -w vm.overcommit_memory=0, and in /etc/sysctl.d',
      )
    : pass(`vm.overcommit_memory=${policy}.`);
}

/** More than this for each CPU is worth a warning where nobody has said another number; and of the memory. */
const vcpusPerCpu = 4;
const memoryPercent = 100;

function promises({ node, guestVcpus = 0 }: CheckedNode): Check {
  const { cpu, memory } = node.status;
  const { vcpusPerCpuWarning = vcpusPerCpu, memoryWarningPercent = memoryPercent } = node.spec.overcommit ?? {};
  const percent = memory.totalMib === 0 ? 0 : Math.round((memory.guestsMib / memory.totalMib) * 100);
  const each = guestVcpus / Math.max(1, cpu.count);
  const what = `Running VMs have ${guestVcpus} vCPUs on ${cpu.count} CPUs, and ${memory.guestsMib} MiB, ${percent} % of the memory`;
  const tooMuch = [
    ...(each > vcpusPerCpuWarning ? [`more than ${vcpusPerCpuWarning} vCPUs for each CPU`] : []),
    ...(percent > memoryWarningPercent ? [`more than ${memoryWarningPercent} % of the memory`] : []),
  ];
  return tooMuch.length === 0
    ? pass(`${what}.`)
    : warn(
        `${what}: ${tooMuch.join(' and ')}. They slow each other down when all are busy.`,
        'Stop or move VMs, or set another limit: lodge node set self overcommit.vcpusPerCpuWarning=… or overcommit.memoryWarningPercent=…',
      );
}

function transparentHugePages({ source }: CheckedNode): Check | null {
  const mode = /\[(\w+)\]/.exec(source.text('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1];
  if (mode === undefined) return null;
  return mode === 'never'
    ? warn(
        'They are off: guests’ memory is mapped in pieces of 4 KiB.',
        'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
      )
    : pass(`${mode}: guests get pages of 2 MiB where there are any.`);
}

function clock({ source }: CheckedNode): Check | null {
  const current = source.text('/sys/devices/system/clocksource/clocksource0/current_clocksource');
  if (current === null) return null;
  return /^(tsc|kvm-clock|hyperv_clocksource.*|xen)$/.test(current)
    ? pass(`${current}.`)
    : warn(
        `The kernel reads the time from ${current}, which takes a microsecond each time: it does not trust the processors' counter (TSC).`,
        'Look at “dmesg | grep -i tsc”; firmware or an old microcode is the usual cause.',
      );
}

/** Weaknesses through which a guest reaches the host or another guest, and that the kernel does nothing about. */
function mitigations({ hardware, source }: CheckedNode): Check | null {
  const group = hardware.groups.find(({ name }) => name === 'mitigations');
  if (!group) return null;
  const open = group.facts.filter(({ name, value }) => name !== 'smt' && value?.startsWith('Vulnerable'));
  if (open.length === 0) return pass('The kernel does something about each that this processor has.');
  const commandLine = source.text('/proc/cmdline') ?? '';
  const switchedOff = /\b(mitigations=\S+|nospectre_v\d|spectre_v2=off|l1tf=off|mds=off)/.exec(commandLine)?.[1];
  const microcode = hardware.vendor === 'GenuineIntel' ? 'intel-microcode' : 'amd64-microcode';
  return warn(
    `Open: ${open.map(({ title, value }) => `${title} (${value})`).join('; ')}. A guest might read memory of others.`,
    switchedOff
      ? `The kernel’s command line says ${switchedOff}: take it out and restart the machine, unless all guests are trusted.`
      : hardware.isVirtualMachine
        ? 'Keep the kernel up to date; microcode is up to the machine that this one runs on.'
        : `Keep the kernel and the microcode up to date: apt-get install ${microcode}, and restart the machine.`,
  );
}

function smt({ hardware }: CheckedNode): Check | null {
  const facts = hardware.groups.find(({ name }) => name === 'mitigations')?.facts ?? [];
  const leaks = facts.filter(({ value }) => value !== null && /SMT vulnerable/.test(value));
  if (leaks.length === 0) return null;
  return warn(
    `The two threads of a core leak to each other (${leaks.map(({ title }) => title).join(', ')}).`,
    'Pin VMs that don’t trust each other to different cores, or switch SMT off: echo off > /sys/devices/system/cpu/smt/control',
  );
}

function storage({ node }: CheckedNode): Check {
  const { path, totalMib, freeMib } = node.status.storage;
  const gib = (value: number): string => `${(value / 1024).toFixed(1)} GiB`;
  const seen = `${gib(freeMib)} of ${gib(totalMib)} are free at ${path}.`;
  if (freeMib < 1024) return fail(seen, 'Make room: lodge volume list, lodge image list, lodge snapshot list VM');
  return freeMib < totalMib / 20
    ? warn(seen, 'Make room: lodge volume list, lodge image list, lodge snapshot list VM')
    : pass(seen);
}

function fileSystem({ dataFileSystem, node }: CheckedNode): Check | null {
  if (dataFileSystem === null) return null;
  const { path } = node.status.storage;
  if (['tmpfs', 'ramfs'].includes(dataFileSystem))
    return warn(
      `${path} is on ${dataFileSystem}: everything is gone when the machine restarts.`,
      'Set dataDir to a disk.',
    );
  if (['nfs', 'nfs4', 'cifs', 'smb3', '9p'].includes(dataFileSystem)) {
    return warn(
      `${path} is on ${dataFileSystem}: the database's locks and writes are not safe on every such server.`,
      'Set dataDir to a local disk.',
    );
  }
  return pass(
    ['btrfs', 'xfs', 'bcachefs', 'zfs'].includes(dataFileSystem)
      ? `${dataFileSystem}, which copies a disk without copying its data.`
      : `${dataFileSystem}.`,
  );
}

function maintenance({ node }: CheckedNode): Check {
  return node.spec.acceptsGuests
    ? pass('New guests may start here.')
    : note('The node is in maintenance: no guest is started here.', 'lodge node set self acceptsGuests=true');
}
