import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { plainHardware } from '../driver.conformance.ts';
import { type GuestDefinition } from '../driver.ts';
import { type ArgumentTools } from './device-arguments.ts';
import { addMachineDevices, requireSavable } from './machine-devices.ts';
import { DevicePlaces } from './places.ts';

/** The arguments of a VM with a display. */
function argumentsOf(input: VmSpecInput, change: Partial<VmHardware> = {}): string[] {
  const spec = vmSpec.parse({ display: 'vnc', ...input });
  const hardware = { ...plainHardware(spec), ...change };
  hardware.video = { model: 'virtio', isAsked: true, why: '' };
  const args: string[] = [];
  const tools = {
    add: (...more: string[]) => void args.push(...more),
    virtio: (name: string) => `virtio-${name}-pci`,
    places: new DevicePlaces('q35', {}),
  } as unknown as ArgumentTools;
  addMachineDevices({ spec, hardware } as GuestDefinition, tools);
  return args;
}

test('the keyboard layout goes to the VNC server, and only where it is asked for', () => {
  const args = argumentsOf({ keyboardLayout: 'de-ch' });
  assert.equal(args[args.indexOf('-k') + 1], 'de-ch');
  assert.ok(!argumentsOf({}).includes('-k'));
});

test('a clipboard is a port beside the agent’s, or the only one', () => {
  const ports = (input: VmSpecInput): (string | undefined)[] =>
    argumentsOf(input).flatMap((argument) =>
      argument.startsWith('virtserialport,') ? [/name=([\w.]+)/.exec(argument)?.[1]] : [],
    );
  const controllers = (input: VmSpecInput): number =>
    argumentsOf(input).filter((argument) => argument.startsWith('virtio-serial-pci,')).length;
  assert.deepEqual(ports({}), ['org.qemu.guest_agent.0']);
  assert.deepEqual(ports({ hasClipboard: true }), ['org.qemu.guest_agent.0', 'com.redhat.spice.0']);
  assert.deepEqual(ports({ hasClipboard: true, hasAgentChannel: false }), ['com.redhat.spice.0']);
  for (const hasClipboard of [true, false]) assert.equal(controllers({ hasClipboard }), 1);
  assert.equal(controllers({ hasAgentChannel: false }), 0);
  assert.ok(
    argumentsOf({ hasClipboard: true }).includes('qemu-vdagent,id=clipboard0,name=vdagent,clipboard=on,mouse=off'),
  );
});

test('a console of virtio’s is on the controller of the agent’s channel, before it', () => {
  const serialConsole = { model: 'virtio-console', isAsked: true, why: '' } as const;
  for (const input of [{}, { hasAgentChannel: false }]) {
    const devices = argumentsOf(input, { serialConsole }).filter((argument) => /^(virtio-serial|virt)/.test(argument));
    const ports = devices.filter((argument) => argument.startsWith('virt') && !argument.startsWith('virtio-'));
    assert.equal(devices.filter((argument) => argument.startsWith('virtio-serial-pci,')).length, 1);
    assert.equal(ports[0], 'virtconsole,bus=virtio-serial0.0,chardev=serial0,id=console');
  }
  assert.ok(!argumentsOf({}).some((argument) => argument.startsWith('virtconsole')));
});

test('memory is not saved with a clipboard, which says what to do', () => {
  requireSavable('web1', { arguments: argumentsOf({}) });
  assert.throws(
    () => requireSavable('web1', { arguments: argumentsOf({ hasClipboard: true }) }),
    (error) => error instanceof LodgeError && error.code === 'unsupported' && /hasClipboard=false/.test(error.hint),
  );
});
