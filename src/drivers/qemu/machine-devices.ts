// The part of QEMU's command line that describes the devices a machine has one of: display, input, USB, random numbers,
// balloon, panic, and the agent's channel. Which they are was resolved before (GuestDefinition.hardware).
import { LodgeError } from '../../api/errors.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type GuestDefinition } from '../driver.ts';
import { addLayers, diskProperties, propertyText, type ArgumentTools } from './device-arguments.ts';
import { workNames } from './folder.ts';
import { usbControllerModel, usbProperties } from './room.ts';
import { diskId, usbController, usbPorts, type Slots } from './slots.ts';

/** What QEMU calls its side of the clipboard. */
export const clipboardChardev = 'qemu-vdagent';
const portsController = 'virtio-serial0';
/** Label of the serial console's character device. */
export const consoleChardev = 'serial0';

/** Label of the agent channel's character device, and id of its port in the guest. */
export const agentChardev = 'agent0';
export const agentPort = 'agent';

export function addMachineDevices(definition: GuestDefinition, tools: ArgumentTools): void {
  const { hardware } = definition;
  const { add, virtio, places } = tools;
  if (hardware.rng.model === 'virtio') {
    add('-object', 'rng-random,id=rng0,filename=/dev/urandom');
    add('-device', `${virtio('rng')},rng=rng0${places.fixed('rng')}`);
  }
  if (hardware.balloon.model === 'virtio') {
    add('-device', `${virtio('balloon')},id=balloon0,free-page-reporting=on${places.fixed('balloon')}`);
  }
  addAgentChannel(definition, tools);
  addClipboard(definition, tools);
  if (hardware.panicDevice.model === 'pvpanic') add('-device', `pvpanic-pci${places.fixed('panic')}`);
  if (hardware.video.model === 'none') {
    add('-display', 'none');
    return;
  }
  const adapter = hardware.video.model === 'virtio' ? 'virtio-vga' : 'VGA';
  if (definition.spec.keyboardLayout) add('-k', definition.spec.keyboardLayout);
  add('-vnc', `unix:${workNames.vncSocket}`, '-device', `${adapter},id=video0${places.fixed('video')}`);
  if (hardware.input.model === 'usb') {
    const port = (index: number): string => (hardware.usb.model === 'xhci' ? `,port=${usbPorts + index}` : '');
    add('-device', `usb-tablet,bus=usb.0${port(1)}`, '-device', `usb-kbd,bus=usb.0${port(2)}`);
  }
  if (hardware.input.model === 'virtio') {
    add('-device', `virtio-keyboard-pci,id=keyboard0${places.fixed('keyboard')}`);
    add('-device', `virtio-tablet-pci,id=tablet0${places.fixed('tablet')}`);
  }
}

function addAgentChannel({ hardware, spec }: GuestDefinition, { add, virtio, places }: ArgumentTools): void {
  const { agentChannel } = hardware;
  const isVirtioConsole = hasVirtioConsole(hardware);
  const hasPorts = agentChannel.model === 'virtio-serial' || spec.hasClipboard || isVirtioConsole;
  if (hasPorts) add('-device', `${virtio('serial')},id=${portsController}${places.fixed('serial')}`);
  // Before the other ports: the first console of the controller has its port 0, and is hvc0.
  if (isVirtioConsole) add('-device', `virtconsole,bus=${portsController}.0,chardev=${consoleChardev},id=console`);
  if (agentChannel.model === 'none') return;
  add('-chardev', `socket,id=${agentChardev},path=${workNames.agentSocket},server=on,wait=off`);
  if (agentChannel.model === 'isa-serial') {
    // COM2: its port and interrupt are where every operating system looks for it.
    add('-device', `isa-serial,id=${agentPort},index=1,chardev=${agentChardev}`);
    return;
  }
  add(
    '-device',
    `virtserialport,bus=${portsController}.0,chardev=${agentChardev},id=${agentPort},name=org.qemu.guest_agent.0`,
  );
}

/** Whether the serial console is one of virtio's, and no serial port. */
export function hasVirtioConsole({ serialConsole }: Pick<VmHardware, 'serialConsole'>): boolean {
  return serialConsole?.model === 'virtio-console';
}

/** The guest's end of the clipboard: QEMU speaks the protocol of SPICE's agent itself (ui/vdagent.c). */
function addClipboard({ spec }: GuestDefinition, { add }: ArgumentTools): void {
  if (!spec.hasClipboard) return;
  add('-chardev', `${clipboardChardev},id=clipboard0,name=vdagent,clipboard=on,mouse=off`);
  add('-device', `virtserialport,bus=${portsController}.0,chardev=clipboard0,id=clipboard,name=com.redhat.spice.0`);
}

/** Refuses to save the memory of a guest whose devices QEMU can't save. */
export function requireSavable(name: string, { arguments: args }: Pick<VmPinned, 'arguments'>): void {
  if (!args.some((argument) => argument.startsWith(`${clipboardChardev},`))) return;
  throw new LodgeError(
    'unsupported',
    `The memory of VM ${name} can not be saved: it shares a clipboard with VNC viewers, which QEMU can not save.`,
    { hint: `Switch that off (lodge vm set ${name} hasClipboard=false); it takes effect at the next start.` },
  );
}

const usbControllers = { xhci: 'qemu-xhci', ehci: 'usb-ehci', uhci: 'piix3-usb-uhci' } as const;

/** The USB controller with what is on it: the others are added by themselves. */
export function addUsb(definition: GuestDefinition, ports: Slots, tools: ArgumentTools): void {
  const { hardware, spec } = definition;
  const { add, places } = tools;
  const disks = definition.disks.filter(({ bus }) => bus === 'usb');
  // A controller that nobody asked for comes with the first device for it.
  const isNeeded = spec.usbDevices.length + disks.length > 0 || places.slot(usbController) !== null;
  const model = hardware.usb.model === 'none' && isNeeded ? 'xhci' : hardware.usb.model;
  const hasPorts = model === 'xhci';
  if (model !== 'none') {
    const count = hasPorts ? `,p2=${usbControllerModel.p2},p3=${usbControllerModel.p3}` : '';
    add('-device', `${usbControllers[model]},id=${usbController}${count}${places.fixed('usb')}`);
  }
  const port = (id: string): string => (hasPorts && ports[id] !== undefined ? `,port=${ports[id]}` : '');
  for (const disk of disks) {
    const properties = propertyText(diskProperties(disk, addLayers(disk, tools)));
    add('-device', `usb-storage,bus=${usbController}.0,${properties}${port(diskId(disk.name))}`);
  }
  for (const device of spec.usbDevices) {
    const { driver, id, bus } = usbProperties(device);
    add('-device', `${driver},id=${id},bus=${bus}${port(id)}`);
  }
}

const diskModels = {
  virtio: ['virtio-blk-pci'],
  scsi: ['virtio-scsi-pci', 'scsi-hd', 'scsi-cd'],
  sata: ['ich9-ahci', 'ide-hd', 'ide-cd'],
  ide: ['ide-hd', 'ide-cd'],
  nvme: ['nvme'],
  usb: ['usb-storage'],
} as const;

/** QEMU's devices that a hardware is made of, with the field that asks for each. */
export function modelsOf(hardware: VmHardware): { field: string; models: string[]; asked: string }[] {
  // A microvm's virtio devices have names of their own.
  const onBus = (models: readonly string[]): string[] =>
    hardware.machine === 'microvm'
      ? models.map((model) => (model.startsWith('virtio-') ? model.replace(/-pci$/, '-device') : model))
      : [...models];
  const { video, input, usb, rng, balloon, panicDevice, agentChannel, serialConsole, sharedFolders } = hardware;
  const one = (
    field: string,
    asked: string,
    models: Readonly<Record<string, readonly string[]>>,
  ): { field: string; models: string[]; asked: string } => ({ field, asked, models: onBus(models[asked] ?? []) });
  return [
    ...hardware.disks.map(({ field, model }) => one(field, model, diskModels)),
    ...hardware.nics.map(({ model }, index) =>
      one(`spec.nics.${index}.model`, model, { [model]: [model === 'virtio' ? 'virtio-net-pci' : model] }),
    ),
    ...sharedFolders.map(({ field, model }) =>
      one(field, model, {
        virtiofs: [hardware.machine === 'microvm' ? 'vhost-user-fs-device' : 'vhost-user-fs-pci'],
        '9p': ['virtio-9p-pci'],
      }),
    ),
    one('spec.video', video.model, { vga: ['VGA'], virtio: ['virtio-vga'] }),
    ...(video.model === 'none'
      ? []
      : [
          one('spec.input', input.model, {
            usb: ['usb-kbd', 'usb-tablet'],
            virtio: ['virtio-keyboard-pci', 'virtio-tablet-pci'],
          }),
        ]),
    one('spec.usb', usb.model, Object.fromEntries(Object.entries(usbControllers).map(([key, name]) => [key, [name]]))),
    one('spec.rng', rng.model, { virtio: ['virtio-rng-pci'] }),
    one('spec.balloon', balloon.model, { virtio: ['virtio-balloon-pci'] }),
    one('spec.panicDevice', panicDevice.model, { pvpanic: ['pvpanic-pci'] }),
    one('spec.agentChannel', agentChannel.model, {
      'virtio-serial': ['virtio-serial-pci', 'virtserialport'],
      'isa-serial': ['isa-serial'],
    }),
    one('spec.serialConsole', serialConsole?.model ?? 'isa-serial', {
      'isa-serial': ['isa-serial'],
      'virtio-console': ['virtio-serial-pci', 'virtconsole'],
    }),
  ];
}
