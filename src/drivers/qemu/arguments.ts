// QEMU's command line for a guest, as a pure function: the arguments, and the files and taps that the launcher opens and
// passes in as descriptors. QEMU itself opens nothing but firmware, and sockets and logs in its own folder.
import { LodgeError } from '../../api/errors.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type GuestDefinition, type GuestDisk, type GuestNic } from '../driver.ts';
import { type LaunchFile, type LaunchTap } from '../../host/launch/launch.ts';
import { cpuArgument } from './cpu-model.ts';
import { workNames } from './folder.ts';
import { type QemuInstallation } from './installation.ts';

/** What the arguments depend on besides the definition. */
export interface CommandContext {
  installation: QemuInstallation;
  accelerator: Pick<VmPinned, 'accelerator' | 'rung' | 'acceleratorReason'>;
  /** Model the probe guest ran with in this rung. */
  probedCpuModel: string | null;
  /** The UEFI variable store of this VM, where it boots by UEFI. */
  uefiVariablesPath: string | null;
  /** /dev/vhost-net can be opened. */
  hasVhostNet: boolean;
  /** Frequency of the time stamp counter, kHz, for machines without a timer to calibrate it by; null: unknown. */
  tscKhz: number | null;
  /** The guest is restored from its saved memory: it waits for it instead of booting. */
  isRestoring: boolean;
}

export interface QemuCommand {
  argv: [string, ...string[]];
  files: LaunchFile[];
  taps: LaunchTap[];
  pinned: VmPinned;
}

/** Descriptors below are standard input, output, error, and the launcher's own. */
const firstDescriptor = 10;

export function buildCommand(definition: GuestDefinition, context: CommandContext): QemuCommand {
  const { spec } = definition;
  const isMicrovm = spec.machine === 'microvm';
  const files: LaunchFile[] = [];
  const taps: LaunchTap[] = [];
  let nextDescriptor = firstDescriptor;
  const args: string[] = [];
  const add = (...more: string[]): void => void args.push(...more);

  /** Passes a file in; QEMU sees it as /dev/fdset/N and reopens it by a duplicate of the descriptor. */
  const passFile = (path: string, mode: LaunchFile['mode']): string => {
    const fd = nextDescriptor++;
    files.push({ path, mode, fd });
    add('-add-fd', `fd=${fd},set=${fd}`);
    return `/dev/fdset/${fd}`;
  };
  /** A device behind virtio: on PCI, or on the memory-mapped bus of the microvm machine. */
  const virtio = (name: string): string => `virtio-${name}-${isMicrovm ? 'device' : 'pci'}`;

  const machineType =
    definition.pinned?.machine &&
    context.installation.machineNames.has(definition.pinned.machine) &&
    isSameMachine(definition.pinned.machine, spec.machine)
      ? definition.pinned.machine
      : (context.installation.machines.get(spec.machine) ?? spec.machine);

  add('-name', `guest=${definition.name},debug-threads=on`, '-uuid', definition.id);
  add('-nodefaults', '-no-user-config', '-msg', 'timestamp=on', '-S');
  add('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');

  const machine: string[] = [machineType];
  if (isMicrovm) machine.push('acpi=off', 'pit=on', 'pic=on', 'rtc=on', 'isa-serial=on', 'auto-kernel-cmdline=on');
  else machine.push('vmport=off');
  if (definition.firmware === 'uefi') {
    if (!context.installation.uefi || !context.uefiVariablesPath) {
      throw new LodgeError(
        'unsupported',
        `VM ${definition.name} boots by UEFI, and no UEFI firmware is installed on this node.`,
        { hint: 'Install ovmf, or set firmware.type to bios.' },
      );
    }
    add(
      '-blockdev',
      json({
        driver: 'file',
        'node-name': 'uefi-code-file',
        filename: context.installation.uefi.codePath,
        'read-only': true,
      }),
    );
    add('-blockdev', json({ driver: 'raw', 'node-name': 'uefi-code', file: 'uefi-code-file', 'read-only': true }));
    const variables = passFile(context.uefiVariablesPath, 'rw');
    add('-blockdev', json({ driver: 'file', 'node-name': 'uefi-variables-file', filename: variables }));
    add('-blockdev', json({ driver: 'raw', 'node-name': 'uefi-variables', file: 'uefi-variables-file' }));
    machine.push('pflash0=uefi-code', 'pflash1=uefi-variables');
  }
  add('-machine', machine.join(','));

  if (context.accelerator.accelerator === 'kvm') add('-accel', `kvm,device=${passFile('/dev/kvm', 'rw')}`);
  else add('-accel', 'tcg,thread=multi');
  const cpuModel =
    definition.pinned?.cpuModel &&
    definition.pinned.accelerator === context.accelerator.accelerator &&
    spec.cpu.model === 'auto' &&
    spec.cpu.enable.length + spec.cpu.disable.length === 0
      ? definition.pinned.cpuModel
      : cpuArgument(spec.cpu, { accelerator: context.accelerator.accelerator, probedModel: context.probedCpuModel });
  add('-cpu', cpuModel, '-smp', topology(definition), '-m', `size=${spec.memoryMib}M`);
  if (!isMicrovm) add('-global', 'ICH9-LPC.disable_s3=1', '-global', 'PIIX4_PM.disable_s3=1');
  add('-rtc', 'base=utc,driftfix=slew', '-boot', 'strict=on');
  add('-action', 'reboot=reset,shutdown=pause,panic=pause');

  add('-chardev', `socket,id=qmp0,path=${workNames.qmpSocket},server=on,wait=off`, '-mon', 'chardev=qmp0,mode=control');
  add(
    '-chardev',
    `socket,id=serial0,path=${workNames.serialSocket},server=on,wait=off,logfile=${workNames.serialLog},logappend=on`,
    '-serial',
    'chardev:serial0',
  );

  if (definition.kernel) {
    // The loader opens these by name, not through an fdset; the descriptor's own link in /proc is a name that works.
    const pass = (path: string): string => {
      const fd = nextDescriptor++;
      files.push({ path, mode: 'ro', fd });
      return `/proc/self/fd/${fd}`;
    };
    add('-kernel', pass(definition.kernel.kernelPath));
    if (definition.kernel.initramfsPath) add('-initrd', pass(definition.kernel.initramfsPath));
    // Without ACPI the kernel has nothing to calibrate its clock by, and no other way to reset.
    const machineLine = isMicrovm ? ` reboot=t${context.tscKhz ? ` tsc_early_khz=${context.tscKhz}` : ''}` : '';
    add('-append', `${definition.kernel.commandLine}${machineLine}`);
  }

  addDisks(definition, { add, passFile, virtio });
  for (const [index, nic] of definition.nics.entries()) {
    addNic(nic, index, context, {
      add,
      virtio,
      passTap: (name) => {
        const fd = nextDescriptor++;
        taps.push({ name, fd });
        return fd;
      },
      passPlain: (path) => {
        const fd = nextDescriptor++;
        files.push({ path, mode: 'rw', fd });
        return fd;
      },
      hasPci: !isMicrovm,
    });
  }

  add('-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', `${virtio('rng')},rng=rng0`);
  add('-device', `${virtio('balloon')},id=balloon0,free-page-reporting=on`);
  if (spec.hasAgentChannel) {
    add('-device', `${virtio('serial')},id=virtio-serial0`);
    add('-chardev', `socket,id=agent0,path=${workNames.agentSocket},server=on,wait=off`);
    add('-device', 'virtserialport,bus=virtio-serial0.0,chardev=agent0,id=agent,name=org.qemu.guest_agent.0');
  }
  if (!isMicrovm) add('-device', 'pvpanic-pci');
  if (hasDisplay(definition)) {
    add('-vnc', `unix:${workNames.vncSocket}`, '-device', 'VGA,id=video0');
    add('-device', 'qemu-xhci,id=usb', '-device', 'usb-tablet,bus=usb.0', '-device', 'usb-kbd,bus=usb.0');
  } else add('-display', 'none');
  if (context.isRestoring) add('-incoming', 'defer');

  return {
    argv: [context.installation.binary, ...args],
    files,
    taps,
    pinned: {
      qemuVersion: context.installation.version,
      machine: machineType,
      ...context.accelerator,
      cpuModel,
      firmware: definition.firmware,
      arguments: [context.installation.binary, ...args],
    },
  };
}

/** Whether a guest gets a display and VNC. */
export function hasDisplay(definition: Pick<GuestDefinition, 'spec' | 'firmware'>): boolean {
  if (definition.spec.machine === 'microvm') return false;
  return definition.spec.display === 'vnc' || (definition.spec.display === 'auto' && definition.firmware !== 'direct');
}

function isSameMachine(versioned: string, type: string): boolean {
  return (
    versioned === type || versioned.startsWith(type === 'q35' ? 'pc-q35-' : type === 'pc' ? 'pc-i440fx-' : `${type}-`)
  );
}

function topology({ spec: { cpu } }: GuestDefinition): string {
  const threads = cpu.threadsPerCore ?? 1;
  const sockets = cpu.sockets ?? 1;
  const cores = cpu.coresPerSocket ?? Math.max(1, Math.floor(cpu.count / (sockets * threads)));
  return `cpus=${cpu.count},sockets=${sockets},cores=${cores},threads=${threads}`;
}

const cacheOptions: Record<GuestDisk['cache'], { direct: boolean; noFlush: boolean }> = {
  none: { direct: true, noFlush: false },
  writeback: { direct: false, noFlush: false },
  writethrough: { direct: false, noFlush: false },
  unsafe: { direct: false, noFlush: true },
};

interface DiskContext {
  add: (...args: string[]) => void;
  passFile: (path: string, mode: LaunchFile['mode']) => string;
  virtio: (name: string) => string;
}

function addDisks(definition: GuestDefinition, { add, passFile, virtio }: DiskContext): void {
  const { machine } = definition.spec;
  let ideUnits = 0;
  let hasScsi = false;
  let hasAhci = machine === 'q35';
  for (const [index, disk] of definition.disks.entries()) {
    const node = addLayers(disk, index, { add, passFile });
    const drive = node ? `,drive=${node}` : '';
    const boot = `,bootindex=${index + 1}`;
    const id = `disk-${disk.name}`;
    const writeCache = disk.device === 'disk' && disk.cache === 'writethrough' ? ',write-cache=off' : '';
    // A CD-ROM has no virtio form; it goes where a PC of this type has it.
    const bus =
      disk.device === 'cdrom' && (disk.bus === 'virtio' || disk.bus === 'nvme')
        ? machine === 'pc'
          ? 'ide'
          : 'sata'
        : disk.bus;
    if (machine === 'microvm' && bus !== 'virtio') {
      throw new LodgeError(
        'unsupported',
        `Disk ${disk.name} is on bus ${bus}; the machine type microvm has only virtio.`,
        { hint: 'Set its bus to virtio, or machine to q35.' },
      );
    }
    switch (bus) {
      case 'virtio':
        add('-device', `${virtio('blk')},id=${id},serial=${disk.name.slice(0, 20)}${drive}${boot}${writeCache}`);
        break;
      case 'scsi':
        if (!hasScsi) add('-device', `${virtio('scsi')},id=scsi0`);
        hasScsi = true;
        add(
          '-device',
          `scsi-${disk.device === 'cdrom' ? 'cd' : 'hd'},bus=scsi0.0,id=${id},serial=${disk.name.slice(0, 20)}${drive}${boot}${writeCache}`,
        );
        break;
      case 'nvme':
        add('-device', `nvme,id=${id},serial=${disk.name.slice(0, 20)}${drive}${boot}`);
        break;
      case 'sata':
        if (!hasAhci) add('-device', 'ich9-ahci,id=ahci0');
        add(
          '-device',
          `ide-${disk.device === 'cdrom' ? 'cd' : 'hd'},bus=${hasAhci && machine === 'q35' ? 'ide' : 'ahci0'}.${ideUnits++},id=${id}${drive}${boot}${writeCache}`,
        );
        hasAhci = true;
        break;
      case 'ide':
        if (machine !== 'pc') {
          throw new LodgeError(
            'unsupported',
            `Disk ${disk.name} is on an IDE bus, which the machine type ${machine} does not have.`,
            { hint: 'Set its bus to sata, or machine to pc.' },
          );
        }
        add(
          '-device',
          `ide-${disk.device === 'cdrom' ? 'cd' : 'hd'},bus=ide.${Math.floor(ideUnits / 2)},unit=${ideUnits % 2},id=${id}${drive}${boot}${writeCache}`,
        );
        ideUnits++;
        break;
    }
  }
}

/** The block graph of a disk, lowest layer first. Returns the node the device uses, null for an empty drive. */
function addLayers(
  disk: GuestDisk,
  index: number,
  { add, passFile }: Pick<DiskContext, 'add' | 'passFile'>,
): string | null {
  const { direct, noFlush } = cacheOptions[disk.cache];
  let below: string | null = null;
  for (const [depth, layer] of [...disk.layers.entries()].reverse()) {
    const isWritten = depth === 0 && !disk.isReadOnly && disk.device === 'disk';
    const name = `disk${index}-${depth}`;
    const common = { 'read-only': !isWritten, cache: { direct, 'no-flush': noFlush } };
    add(
      '-blockdev',
      json({
        driver: 'file',
        'node-name': `${name}-file`,
        filename: passFile(layer.path, isWritten ? 'rw' : 'ro'),
        ...common,
        discard: 'unmap',
      }),
    );
    // A layer's own record of what it is based on is not followed: the graph is the one given here.
    add(
      '-blockdev',
      json({
        driver: layer.format,
        'node-name': name,
        file: `${name}-file`,
        ...common,
        discard: 'unmap',
        ...(layer.format === 'qcow2' ? { backing: below } : {}),
      }),
    );
    below = name;
  }
  return below;
}

const nicDevices: Record<GuestNic['model'], string> = {
  virtio: 'net',
  e1000e: 'e1000e',
  e1000: 'e1000',
  rtl8139: 'rtl8139',
};

function addNic(
  nic: GuestNic,
  index: number,
  context: CommandContext,
  tools: {
    add: (...args: string[]) => void;
    virtio: (name: string) => string;
    passTap: (name: string) => number;
    passPlain: (path: string) => number;
    hasPci: boolean;
  },
): void {
  const id = `net${index}`;
  if (nic.attachment.kind === 'tap') {
    const useVhost = context.hasVhostNet && context.accelerator.accelerator === 'kvm' && nic.model === 'virtio';
    const vhost = useVhost ? `,vhost=on,vhostfd=${tools.passPlain('/dev/vhost-net')}` : '';
    tools.add('-netdev', `tap,id=${id},fd=${tools.passTap(nic.attachment.hostInterface)}${vhost}`);
  } else {
    const { ipv4Cidr, dnsDomain, hostname } = nic.attachment;
    tools.add('-netdev', `user,id=${id},net=${ipv4Cidr},domainname=${dnsDomain},hostname=${hostname}`);
  }
  if (!tools.hasPci && nic.model !== 'virtio') {
    throw new LodgeError('unsupported', `NIC ${index} is a ${nic.model}; the machine type microvm has only virtio.`, {
      hint: 'Set its model to virtio, or machine to q35.',
    });
  }
  const device = nic.model === 'virtio' ? tools.virtio('net') : nicDevices[nic.model];
  const mtu = nic.model === 'virtio' ? `,host_mtu=${nic.mtu}` : '';
  const rom = tools.hasPci ? ',romfile=' : '';
  tools.add('-device', `${device},id=nic${index},netdev=${id},mac=${nic.mac}${mtu}${rom}`);
}

function json(value: unknown): string {
  return JSON.stringify(value);
}
