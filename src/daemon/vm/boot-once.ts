// Booting from another device than the first of the boot order, once: what is meant, and why it can't be.
import { bootDeviceOf, type BootDevice } from '../../api/boot-order.ts';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { bootDevices, planHardware } from './definition.ts';

/** The device that a VM is to be booted from once. Throws where there is none, or its firmware asks for none. */
export async function requireBootOnce(
  parts: Parameters<typeof planHardware>[0],
  vm: Vm,
  word: string,
): Promise<BootDevice> {
  const devices = bootDevices(parts, vm);
  const device = bootDeviceOf(word, devices);
  if (!device) {
    const { disks, nics } = devices;
    const there = [...disks.map(({ name }) => name), ...(nics.length > 0 ? ['network'] : [])];
    throw invalidField('bootOnce', `VM ${vm.name} has no such device; it has ${there.join(', ') || 'none'}`, word);
  }
  const { firmware } = await planHardware(parts, vm);
  if (firmware === 'direct')
    throw new LodgeError(
      'unsupported',
      `VM ${vm.name} boots the kernel of its image directly: no firmware looks at its devices.`,
      { hint: `Set firmware.type to bios or uefi: lodge vm set ${vm.name} firmware.type=uefi.` },
    );
  if (vm.spec.machine === 'microvm')
    throw new LodgeError('unsupported', `VM ${vm.name} is a microvm, whose firmware has no boot order.`, {
      hint: 'Set machine to q35.',
    });
  return device;
}
