// The QEMU driver as the conformance suites test it, with real guests of the image `tiny`.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { type DriverSubject } from '../../src/drivers/conformance-subject.ts';
import { defineTiny, driverHost, killProcess, tracesOf, untilReady } from './qemu-guest.ts';
import { eventually } from './wait.ts';

export async function qemuSubject(context: TestContext): Promise<DriverSubject> {
  const host = await driverHost(context);
  const folders = new Map<string, string>();
  return {
    openDriver: () => host.openDriver(),
    define: async () => {
      const definition = await defineTiny(host);
      folders.set(definition.id, definition.directory);
      return definition;
    },
    defineBroken: async () => {
      const path = join(host.folder, 'broken.qcow2');
      await writeFile(path, 'this is no disk image');
      const disk = { name: 'root', device: 'disk', bus: 'virtio', cache: 'writeback', isReadOnly: false } as const;
      return defineTiny(host, {}, { disks: [{ ...disk, layers: [{ path, format: 'qcow2' }] }] });
    },
    kill: killProcess,
    traces: (definition) => tracesOf(host.instance, definition),
    untilUp: async (guest) => {
      const directory = folders.get(guest.id);
      assert.ok(directory);
      await untilReady(host.openDriver(), { id: guest.id, directory });
      // What hears the power button is started just before the agent answers.
      await eventually(() => guest.agent.isAnswering(), { timeoutMs: 30_000, describe: 'the agent answers' });
    },
    dialogue: { typed: 'echo $((6 * 7))\n', answer: '\n42\r' },
    refused: [
      { spec: { cpu: { model: 'pentium9' } }, field: 'spec.cpu.model' },
      { spec: { cpu: { enable: ['avx2', 'warp-drive'] } }, field: 'spec.cpu.enable.1' },
      { spec: { cpu: { count: 3, sockets: 2 } }, field: 'spec.cpu' },
      { spec: { machine: 'pc', cpu: { count: 256 } }, field: 'spec.cpu.count' },
      { spec: { disks: [{ name: 'root', bus: 'ide' }] }, field: 'spec.disks.0.bus' },
      { spec: { machine: 'microvm', nics: [{ model: 'e1000' }] }, field: 'spec.nics.0.model' },
      { spec: { machine: 'microvm', firmware: { type: 'uefi' } }, field: 'spec.firmware.type' },
    ],
  };
}
