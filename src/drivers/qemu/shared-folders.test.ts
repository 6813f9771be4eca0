import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { type GuestSharedFolder } from '../driver.ts';
import { plainHardware } from '../driver.conformance.ts';
import { DevicePlaces } from './places.ts';
import { addSharedFolders, hasEnded, hasSharedMemory, needsSharedMemory } from './shared-folders.ts';

const data: GuestSharedFolder = { name: 'data', model: '9p', isReadOnly: false, path: '/srv/data' };

function argumentsOf(
  sharedFolders: GuestSharedFolder[],
  machine: NonNullable<VmSpecInput['machine']> = 'q35',
): { args: string[]; passed: string[] } {
  const spec = vmSpec.parse({ machine });
  const args: string[] = [];
  const passed: string[] = [];
  addSharedFolders(
    {
      ...{ id: '1', name: 'web1', spec, hardware: plainHardware(spec), pinned: null, firmware: 'bios', kernel: null },
      ...{ disks: [], nics: [], sharedFolders, directory: '/var/lib/lodge/vms/1', uid: 1_900_000_000 },
    },
    (path, access) => 40 + passed.push(`${access} ${path}`),
    {
      add: (...more) => void args.push(...more),
      places: new DevicePlaces(machine),
      virtio: (name) => `virtio-${name}-${machine === 'microvm' ? 'device' : 'pci'}`,
    },
  );
  return { args, passed };
}

test('9p: QEMU has the folder as a descriptor, and keeps owners and modes of the guest beside the files', () => {
  const { args, passed } = argumentsOf([data, { ...data, name: 'docs', isReadOnly: true, path: '/srv/docs' }]);
  assert.deepEqual(passed, ['rw /srv/data', 'ro /srv/docs']);
  assert.deepEqual(args, [
    '-fsdev',
    'local,id=share-data-files,path=/proc/self/fd/41,security_model=mapped-xattr,multidevs=remap',
    '-device',
    'virtio-9p-pci,id=share-data,fsdev=share-data-files,mount_tag=data,bus=pcie.0,addr=0x1c.0x0,multifunction=on',
    '-fsdev',
    'local,id=share-docs-files,path=/proc/self/fd/42,security_model=mapped-xattr,multidevs=remap,readonly=on',
    '-device',
    'virtio-9p-pci,id=share-docs,fsdev=share-docs-files,mount_tag=docs,bus=pcie.0,addr=0x1c.0x1',
  ]);
});

test('virtio-fs: QEMU has a socket and no folder', () => {
  const { args, passed } = argumentsOf([{ ...data, model: 'virtiofs' }]);
  assert.deepEqual(passed, []);
  assert.deepEqual(args, [
    '-chardev',
    'socket,id=share-data-socket,path=shared-folder-data.sock',
    '-device',
    'vhost-user-fs-pci,id=share-data,chardev=share-data-socket,tag=data,queue-size=1024,bus=pcie.0,addr=0x1c.0x0,multifunction=on',
  ]);
});

test('a microvm has them on its own bus', () => {
  const { args } = argumentsOf([data, { ...data, name: 'fast', model: 'virtiofs' }], 'microvm');
  assert.match(args[3]!, /^virtio-9p-device,.*bus=virtio-mmio-bus\.3$/);
  assert.match(args[7]!, /^vhost-user-fs-device,.*bus=virtio-mmio-bus\.4$/);
});

test('only virtio-fs needs memory that another process sees', () => {
  assert.equal(needsSharedMemory({ sharedFolders: [data] }), false);
  assert.equal(needsSharedMemory({ sharedFolders: [data, { ...data, model: 'virtiofs' }] }), true);
  assert.equal(needsSharedMemory({}), false);
  assert.equal(hasSharedMemory(['-object', 'memory-backend-memfd,id=pc.ram,size=128M,share=on']), true);
  assert.equal(hasSharedMemory(['-object', 'memory-backend-ram,id=pc.ram']), false);
});

test('a folder is served as long as all its processes live', () => {
  assert.equal(hasEnded({ name: 'data', processes: [] }), true);
});
