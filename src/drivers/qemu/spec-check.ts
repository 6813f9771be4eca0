// What a VM's spec may not ask of the installed QEMU. Pure: what QEMU said of itself is an argument. Every refusal names
// the field, what was given, and what is possible instead.
import { LodgeError, invalidField, shorten } from '../../api/errors.ts';
import { ideDrives } from '../../api/resolve-hardware.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { cpuLevels, featuresOfLevel } from './cpu-model.ts';
import { type QemuInstallation } from './installation.ts';
import { clipboardChardev, modelsOf } from './machine-devices.ts';
import { tpmModel } from './tpm.ts';
import { microvmRoom } from './places.ts';

/** Most vCPUs that a machine type takes: `cpu-max` of query-machines, QEMU 10. */
const maxVcpus: Record<VmSpec['machine'], number> = { q35: 1024, pc: 255, microvm: 288 };

const maxNearModels = 5;

type Installation = Pick<
  QemuInstallation,
  | 'version'
  | 'chardevKinds'
  | 'machines'
  | 'cpuModels'
  | 'cpuFeatures'
  | 'deviceModels'
  | 'uefi'
  | 'swtpmPath'
  | 'virtiofsdPath'
>;

/** Throws `invalid_request` or `unsupported` for the first thing that can't be. */
export function checkSpec(spec: VmSpec, hardware: VmHardware, installation: Installation): void {
  checkCpu(spec, installation);
  if (!installation.machines.has(spec.machine)) {
    throw unsupportedField(
      'spec.machine',
      `QEMU ${installation.version} does not have this machine type`,
      spec.machine,
      `It has ${[...installation.machines.keys()].join(', ')}.`,
    );
  }
  checkDisks(hardware);
  if (spec.machine === 'microvm') checkMicrovm(spec, hardware);
  checkDevices(hardware, installation);
  if (spec.firmware.type === 'uefi' && !installation.uefi) {
    throw unsupportedField(
      'spec.firmware.type',
      'no UEFI firmware is installed on this node',
      spec.firmware.type,
      'Install the package ovmf, or set firmware.type to bios.',
    );
  }
  checkSecureBoot(spec, installation);
  checkTpm(spec, installation);
  checkSharedFolders(hardware, installation);
  checkClipboard(spec, hardware, installation);
}

function checkSharedFolders({ sharedFolders }: VmHardware, { virtiofsdPath }: Installation): void {
  const asked = sharedFolders.find(({ model }) => model === 'virtiofs');
  if (!asked || virtiofsdPath !== null) return;
  throw unsupportedField(
    asked.field,
    'virtiofsd is not installed on this node',
    asked.model,
    'Install the package virtiofsd (Debian has it from 13 on), or set the driver to 9p.',
  );
}

function checkClipboard(
  { hasClipboard }: VmSpec,
  { video }: VmHardware,
  { version, chardevKinds }: Installation,
): void {
  if (!hasClipboard) return;
  const field = 'spec.hasClipboard';
  if (video.model === 'none')
    throw invalidField(field, 'a VM without a display has no viewers to share a clipboard with', true);
  if (!chardevKinds.has(clipboardChardev))
    throw unsupportedField(field, `QEMU ${version} has no ${clipboardChardev}`, true, 'Install QEMU 6.1 or newer.');
}

function checkTpm({ tpm, machine }: VmSpec, { version, deviceModels, swtpmPath }: Installation): void {
  if (!tpm?.isEnabled) return;
  const field = 'spec.tpm.isEnabled';
  if (machine === 'microvm') throw invalidField(field, 'the machine type microvm has no TPM', true);
  if (swtpmPath === null)
    throw unsupportedField(field, 'swtpm is not installed on this node', true, 'Install the package swtpm.');
  if (!deviceModels.has(tpmModel(machine))) {
    throw unsupportedField(
      field,
      `QEMU ${version} has no device ${tpmModel(machine)}`,
      true,
      'Install a QEMU with TPM support, or set it to false.',
    );
  }
}

function checkSecureBoot({ firmware: { secureBoot }, machine }: VmSpec, { uefi }: Installation): void {
  if (!secureBoot?.isEnabled) return;
  const field = 'spec.firmware.secureBoot';
  if (machine !== 'q35')
    throw invalidField('spec.machine', 'Secure Boot needs machine type q35, for its system management mode', machine);
  if (!uefi?.secureBoot) {
    throw unsupportedField(
      `${field}.isEnabled`,
      'no UEFI firmware with Secure Boot is installed on this node',
      true,
      'Install the package ovmf, or set it to false.',
    );
  }
  if (secureBoot.keys === 'microsoft' && uefi.secureBoot.microsoftVariablesPath === null) {
    throw unsupportedField(
      `${field}.keys`,
      'no variable store with Microsoft’s keys is installed on this node',
      secureBoot.keys,
      'Install the package that has it (Debian: ovmf), or set it to own.',
    );
  }
}

/** An `unsupported` for one field. */
export function unsupportedField(field: string, message: string, value: unknown, hint: string): LodgeError {
  return new LodgeError('unsupported', `${field}: ${message} (given: ${shorten(value)})`, {
    fields: [{ field, message, value: shorten(value) }],
    hint,
  });
}

function checkCpu({ cpu, machine }: VmSpec, { version, cpuModels, cpuFeatures }: Installation): void {
  const isKnownModel =
    ['auto', 'host', 'max'].includes(cpu.model) || featuresOfLevel(cpu.model) !== null || cpuModels.includes(cpu.model);
  if (!isKnownModel) {
    const near = nearModels(cpu.model, ['auto', 'host', 'max', ...cpuLevels, ...cpuModels]);
    throw invalidField(
      'spec.cpu.model',
      `QEMU ${version} has no CPU model of this name; ${near.length > 0 ? `near it are ${near.join(', ')}; ` : ''}lodge node show -o yaml lists all it has`,
      cpu.model,
    );
  }
  for (const field of ['enable', 'disable'] as const) {
    for (const [index, feature] of cpu[field].entries()) {
      if (!isKnownFeature(cpuFeatures, feature)) {
        throw invalidField(
          `spec.cpu.${field}.${index}`,
          `QEMU ${version} knows no CPU feature of this name (qemu-system-x86_64 -cpu help lists them)`,
          feature,
        );
      }
    }
  }
  const threads = cpu.threadsPerCore ?? 1;
  const sockets = cpu.sockets ?? 1;
  const most = cpu.maxCount ?? cpu.count;
  const cores = cpu.coresPerSocket ?? most / (sockets * threads);
  if (sockets * cores * threads !== most || !Number.isInteger(cores)) {
    throw invalidField(
      'spec.cpu',
      `sockets × coresPerSocket × threadsPerCore must be ${cpu.maxCount ? 'maxCount, the most' : 'the count of'} ${most} vCPUs`,
      { sockets: cpu.sockets, coresPerSocket: cpu.coresPerSocket, threadsPerCore: cpu.threadsPerCore },
    );
  }
  if (most > maxVcpus[machine]) {
    throw invalidField(
      cpu.maxCount ? 'spec.cpu.maxCount' : 'spec.cpu.count',
      `the machine type ${machine} takes at most ${maxVcpus[machine]} vCPUs`,
      most,
    );
  }
}

function checkDisks({ disks, machine }: VmHardware): void {
  let ideCount = 0;
  for (const { model, field } of disks) {
    if (model !== 'ide') continue;
    if (machine !== 'pc' && machine !== 'microvm') {
      throw invalidField(field, `the machine type ${machine} has no IDE bus; use sata, or the machine type pc`, model);
    }
    ideCount++;
    if (ideCount > ideDrives) {
      throw invalidField(
        field,
        `a PC has room for ${ideDrives} IDE drives, CD-ROMs included; use sata, scsi or virtio for the others`,
        model,
      );
    }
  }
}

/** Refuses what has nothing to be plugged into, and a device that this QEMU was built without. */
function checkDevices(hardware: VmHardware, { version, deviceModels }: Installation): void {
  const { video, input, usb } = hardware;
  if (video.model !== 'none' && input.model === 'usb' && usb.model === 'none')
    throw invalidField('spec.input', 'needs a USB controller: set usb to xhci, or input to ps2 or virtio', 'usb');
  for (const { field, models, asked } of modelsOf(hardware)) {
    for (const model of models) {
      if (deviceModels.has(model)) continue;
      throw unsupportedField(
        field,
        `QEMU ${version} on this node has no device ${model}`,
        asked,
        'Install the QEMU package that brings it (qemu-system-x86 with its modules), or ask for another.',
      );
    }
  }
}

function checkMicrovm(spec: VmSpec, hardware: VmHardware): void {
  for (const [index, { model }] of hardware.nics.entries()) {
    if (model !== 'virtio')
      throw invalidField(`spec.nics.${index}.model`, 'the machine type microvm has only virtio', model);
  }
  for (const { device, field, model } of hardware.disks) {
    if (device === 'cdrom')
      throw invalidField(field.replace(/bus$/, 'device'), 'the machine type microvm has no CD-ROM', device);
    if (model !== 'virtio') throw invalidField(field, 'the machine type microvm has only virtio', model);
  }
  for (const field of ['usb', 'panicDevice'] as const) {
    const { model } = hardware[field];
    if (model !== 'none') throw invalidField(`spec.${field}`, 'the machine type microvm has no PCI bus', model);
  }
  if (hardware.agentChannel.model === 'isa-serial')
    throw invalidField('spec.agentChannel', 'the machine type microvm has one serial port', 'isa-serial');
  if (hardware.hpet.model === 'hpet')
    throw invalidField('spec.clock.hasHpet', 'the machine type microvm has no HPET', true);
  if (spec.disks.length + spec.nics.length > microvmRoom) {
    throw invalidField(
      spec.disks.length > 0 ? 'spec.disks' : 'spec.nics',
      `the machine type microvm has room for ${microvmRoom} disks and NICs together`,
      spec.disks.length + spec.nics.length,
    );
  }
  if (spec.firmware.type === 'uefi' || spec.firmware.type === 'bios') {
    throw invalidField('spec.firmware.type', 'the machine type microvm boots a kernel directly', spec.firmware.type);
  }
  if (spec.display === 'vnc') throw invalidField('spec.display', 'the machine type microvm has no display', 'vnc');
}

/** Models that somebody may have meant: those whose name begins or goes on with what was given, and the most similar one. */
function nearModels(given: string, models: readonly string[]): string[] {
  const wanted = given.toLowerCase();
  const alike = models.filter((model) => wanted.length >= 3 && model.toLowerCase().includes(wanted));
  const closest = closestWord(given, models);
  return [...new Set([...(closest === null ? [] : [closest]), ...alike])].slice(0, maxNearModels);
}

/** QEMU writes some features with "-", users also with "_" or ".". */
function isKnownFeature(known: ReadonlySet<string>, feature: string): boolean {
  return known.has(feature) || known.has(feature.replaceAll('_', '-'));
}
