// QEMU's command line for a guest, as a pure function: the arguments, and the files and taps that the launcher opens and
// passes in as descriptors. QEMU itself opens nothing but firmware, and sockets and logs in its own folder.
import { LodgeError } from '../../api/errors.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type GuestDefinition } from '../driver.ts';
import { type LaunchFile, type LaunchFolder, type LaunchTap } from '../../host/launch/launch.ts';
import { cpuArgument } from './cpu-model.ts';
import { addDisks, addHotplugBus, addNics, type ArgumentTools } from './device-arguments.ts';
import { workNames } from './folder.ts';
import { identityArguments, tellsGeneration } from './identity-arguments.ts';
import { interfaceOptions } from './cpu-interface.ts';
import { addMachineDevices, addUsb, consoleChardev, hasVirtioConsole } from './machine-devices.ts';
import { type IncomingMemory } from './fork/fork.ts';
import { addMemory, memoryTreatment } from './memory-arguments.ts';
import { addMemoryDevice, planRoom, type Room } from './room.ts';
import { type QemuInstallation } from './installation.ts';
import { DevicePlaces } from './places.ts';
import { addSharedFolders, needsSharedMemory } from './shared-folders.ts';
import { serialChardevArguments } from './serial/chardev.ts';
import { tpmArguments } from './tpm.ts';
import { chooseUefiCode } from './uefi-variables.ts';

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
  /** This KVM knows Hyper-V's interface. */
  hasHyperV: boolean;
  /** The guest is restored from its saved memory: it waits for it instead of booting. */
  isRestoring: boolean;
  /** The guest is a running copy of another: its memory is mapped from a file, its devices' state comes from another. */
  incoming?: IncomingMemory;
}

export interface QemuCommand {
  argv: [string, ...string[]];
  files: LaunchFile[];
  taps: LaunchTap[];
  folders: LaunchFolder[];
  pinned: VmPinned;
  /** What the devices' state of a copy is called for its QEMU. */
  streamUri: string | null;
}

/** How long the firmware waits for the key that opens its boot menu. */
const bootMenuMs = 5000;
/** Descriptors below are standard input, output, error, and the launcher's own. */
const firstDescriptor = 10;

export function buildCommand(definition: GuestDefinition, context: CommandContext): QemuCommand {
  const { spec, hardware } = definition;
  const { installation, accelerator } = context;
  const isMicrovm = spec.machine === 'microvm';
  const machineType = chooseMachine(definition, context);
  const cpuModel = chooseCpuModel(definition, context);
  const files: LaunchFile[] = [];
  const taps: LaunchTap[] = [];
  let nextDescriptor = firstDescriptor;
  const args: string[] = [];
  const add = (...more: string[]): void => void args.push(...more);
  const passDescriptor = (path: string, mode: LaunchFile['mode']): number => {
    const fd = nextDescriptor++;
    files.push({ path, mode, fd });
    return fd;
  };
  const hotplug = planRoom(definition, context.isRestoring);
  const folders: LaunchFolder[] = [];
  const passFolder = (path: string, access: LaunchFolder['access']): number => {
    const at = nextDescriptor++;
    folders.push({ path, access, at });
    return at;
  };
  const places = new DevicePlaces(spec.machine, hotplug.slots);
  const tools: ArgumentTools = {
    add,
    passDescriptor,
    // QEMU opens /dev/fdset/N by a duplicate of the descriptor.
    passFile: (path, mode) => {
      const fd = passDescriptor(path, mode);
      // The path is QEMU's to remember: by it a later daemon knows which file a set stands for (query-fdsets).
      add('-add-fd', `fd=${fd},set=${fd},opaque=${path.replaceAll(',', ',,')}`);
      return `/dev/fdset/${fd}`;
    },
    passTap: (name, queues) => {
      const fd = nextDescriptor;
      nextDescriptor += queues;
      taps.push(queues > 1 ? { name, fd, queues } : { name, fd });
      return fd;
    },
    virtio: (name) => `virtio-${name}-${isMicrovm ? 'device' : 'pci'}`,
    places,
  };

  add('-name', `guest=${definition.name},debug-threads=on`);
  // A guest that is restored has the devices that its memory was saved with.
  const hasGenerationId = !isMicrovm && (!context.isRestoring || tellsGeneration(definition.pinned?.arguments ?? []));
  add(...identityArguments(definition, { hasGenerationId }));
  add('-nodefaults', '-no-user-config', '-msg', 'timestamp=on', '-S');
  add('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');

  const machine = [machineType];
  // ACPI is how a distribution's kernel finds virtio-mmio devices. With a PIC, the timer that the kernel calibrates its
  // clock by raises an interrupt that nothing handles yet, and every second boot panics.
  const hasSerialPort = !hasVirtioConsole(hardware);
  if (isMicrovm) machine.push('acpi=on', 'pit=on', 'pic=off', 'rtc=on', `isa-serial=${hasSerialPort ? 'on' : 'off'}`);
  else machine.push('vmport=off', `hpet=${hardware.hpet.model === 'hpet' ? 'on' : 'off'}`);
  if (definition.firmware === 'uefi') machine.push(addUefi(definition, context, tools));
  const hasSharedMemory = needsSharedMemory(definition);
  if (context.incoming) machine.push(addMappedMemory(hotplug, context.incoming, tools));
  else machine.push(...addMemory(definition, hotplug, hasSharedMemory, tools));
  const streamUri = context.incoming ? `file:${tools.passFile(context.incoming.streamPath, 'ro')}` : null;
  const treatment = memoryTreatment(spec);
  machine.push(...treatment.machine);
  add('-machine', machine.join(','), ...treatment.options);
  add(
    '-accel',
    accelerator.accelerator === 'kvm' ? `kvm,device=${tools.passFile('/dev/kvm', 'rw')}` : 'tcg,thread=multi',
  );
  const interfaceText = interfaceOptions(hardware.cpuInterface.model, accelerator.accelerator, context.hasHyperV);
  add('-cpu', `${cpuModel}${interfaceText}`, '-smp', topology(definition, hotplug.maxVcpus), '-m', memoryText(hotplug));
  // A guest that suspends itself to memory would look like one that hangs.
  if (!isMicrovm) add('-global', 'ICH9-LPC.disable_s3=1', '-global', 'PIIX4_PM.disable_s3=1');
  add('-rtc', `base=${hardware.clockBase.model},driftfix=slew`);
  add('-boot', spec.firmware.hasBootMenu ? `strict=on,menu=on,splash-time=${bootMenuMs}` : 'strict=on');
  add('-action', 'reboot=reset,shutdown=pause,panic=pause');
  add('-chardev', `socket,id=qmp0,path=${workNames.qmpSocket},server=on,wait=off`, '-mon', 'chardev=qmp0,mode=control');
  add(
    '-chardev',
    `socket,id=qmp1,path=${workNames.descriptorSocket},server=on,wait=off`,
    '-mon',
    'chardev=qmp1,mode=control',
  );
  add(
    ...serialChardevArguments(consoleChardev, workNames.serialSocket, workNames.serialLog, installation.chardevKinds),
  );
  if (hasSerialPort) add('-serial', `chardev:${consoleChardev}`);
  addKernel(definition, context, tools);

  for (let index = 0; index < hardware.ioThreads.count; index++) add('-object', `iothread,id=iothread${index}`);
  addHotplugBus(spec.machine, tools);
  addMemoryDevice(definition, hotplug, hasSharedMemory, tools);
  addDisks(definition, hotplug, tools);
  const canUseVhost = context.hasVhostNet && accelerator.accelerator === 'kvm';
  addNics(definition, { canUseVhost, isRestoring: context.isRestoring }, tools);
  addSharedFolders(definition, passFolder, tools);
  addUsb(definition, hotplug.targets, tools);
  addMachineDevices(definition, tools);
  add(...tpmArguments(definition));
  if (context.isRestoring) add('-incoming', 'defer');

  const argv: [string, ...string[]] = [installation.binary, ...args];
  return {
    argv,
    files,
    taps,
    folders,
    streamUri,
    pinned: {
      qemuVersion: installation.version,
      machine: machineType,
      ...accelerator,
      cpuModel,
      firmware: definition.firmware,
      hardware,
      cpuFeatures: [],
      hotplug,
      arguments: argv,
    },
  };
}

/** The versioned machine type: the pinned one as long as QEMU still has it and the spec wants a machine of its kind. */
function chooseMachine(
  { name, pinned, spec: { machine } }: GuestDefinition,
  { installation, isRestoring }: CommandContext,
): string {
  if (pinned && isSameMachine(pinned.machine, machine)) {
    if (installation.machineNames.has(pinned.machine)) return pinned.machine;
    if (isRestoring) {
      throw new LodgeError(
        'unsupported',
        `VM ${name} was suspended as a ${pinned.machine}, which QEMU ${installation.version} does not have any more.`,
        {
          hint: 'Install the QEMU it was suspended with, or discard its saved memory (lodge vm force-off) and start it afresh.',
        },
      );
    }
  }
  return installation.machines.get(machine) ?? machine;
}

function isSameMachine(versioned: string, type: string): boolean {
  const prefix = { q35: 'pc-q35-', pc: 'pc-i440fx-' }[type] ?? `${type}-`;
  return versioned === type || versioned.startsWith(prefix);
}

/** The pinned CPU model where the spec leaves the choice to Lodge and nothing it depends on has changed. */
function chooseCpuModel({ pinned, spec: { cpu } }: GuestDefinition, context: CommandContext): string {
  const { accelerator } = context.accelerator;
  const isLeftToLodge = cpu.model === 'auto' && cpu.enable.length + cpu.disable.length === 0;
  if (pinned && pinned.accelerator === accelerator && isLeftToLodge) return pinned.cpuModel;
  return cpuArgument(cpu, { accelerator, probedModel: context.probedCpuModel });
}

/** Adds the two flash chips, and gives back what the machine is told of them. */
function addUefi(definition: GuestDefinition, context: CommandContext, { add, passFile }: ArgumentTools): string {
  const { codePath, isSecure } = chooseUefiCode(definition, context.installation.uefi);
  if (!context.uefiVariablesPath)
    throw new LodgeError('internal', `VM ${definition.name} boots by UEFI and has no variable store.`);
  const node = (value: Record<string, unknown>): void => add('-blockdev', JSON.stringify(value));
  node({ driver: 'file', 'node-name': 'uefi-code-file', filename: codePath, 'read-only': true });
  node({ driver: 'raw', 'node-name': 'uefi-code', file: 'uefi-code-file', 'read-only': true });
  const variables = passFile(context.uefiVariablesPath, 'rw');
  node({ driver: 'file', 'node-name': 'uefi-variables-file', filename: variables });
  node({ driver: 'raw', 'node-name': 'uefi-variables', file: 'uefi-variables-file' });
  // Flash that only system management mode can write: the guest's kernel can't change keys behind the firmware's back.
  if (isSecure) add('-global', 'driver=cfi.pflash01,property=secure,value=on');
  return `${isSecure ? 'smm=on,' : ''}pflash0=uefi-code,pflash1=uefi-variables`;
}

/**
 * Maps the guest's memory privately from a file that nobody writes to: https://www.qemu.org/docs/master/system/vm-templating.html
 * Gives back what the machine is told of it.
 */
function addMappedMemory({ baseMemoryMib }: Room, incoming: IncomingMemory, tools: ArgumentTools): string {
  // The memory's file is opened by name, not through an fdset.
  const fd = tools.passDescriptor(incoming.path, 'ro');
  tools.add(
    '-object',
    `memory-backend-file,id=${incoming.block},size=${baseMemoryMib}M,mem-path=/proc/self/fd/${fd},` +
      `offset=${incoming.offset},share=off,readonly=on,rom=off`,
  );
  return `memory-backend=${incoming.block}`;
}

function addKernel({ kernel, spec }: GuestDefinition, context: CommandContext, tools: ArgumentTools): void {
  if (!kernel) return;
  // The loader opens these by name, not through an fdset; the descriptor's own link in /proc is a name that works.
  const pass = (path: string): string => `/proc/self/fd/${tools.passDescriptor(path, 'ro')}`;
  tools.add('-kernel', pass(kernel.kernelPath));
  if (kernel.initramfsPath) tools.add('-initrd', pass(kernel.initramfsPath));
  // On a busy host the kernel's calibration of its clock fails there, and it has no other clock to fall back to.
  const tsc = context.tscKhz === null ? '' : ` tsc_early_khz=${context.tscKhz}`;
  tools.add('-append', `${kernel.commandLine}${spec.machine === 'microvm' ? tsc : ''}`);
}

function topology({ spec: { cpu } }: GuestDefinition, maxVcpus: number): string {
  const threads = cpu.threadsPerCore ?? 1;
  const sockets = cpu.sockets ?? 1;
  const cores = cpu.coresPerSocket ?? Math.max(1, Math.floor(maxVcpus / (sockets * threads)));
  const more = maxVcpus > cpu.count ? `,maxcpus=${maxVcpus}` : '';
  return `cpus=${cpu.count}${more},sockets=${sockets},cores=${cores},threads=${threads}`;
}

function memoryText({ baseMemoryMib, maxMemoryMib }: Room): string {
  return `size=${baseMemoryMib}M${maxMemoryMib > baseMemoryMib ? `,maxmem=${maxMemoryMib}M` : ''}`;
}
