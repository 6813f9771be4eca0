import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { bootDeviceOf, bootOrder, describeBootDevice, placeIn, type BootDevices } from './boot-order.ts';

const disk = (name: string, bootIndex?: number): BootDevices['disks'][number] => ({ name, device: 'disk', bootIndex });
const cdrom = (name: string, bootIndex?: number): BootDevices['disks'][number] => ({
  name,
  device: 'cdrom',
  bootIndex,
});
const nic = (mac: string, bootIndex?: number): BootDevices['nics'][number] => ({ mac, network: 'lab', bootIndex });

test('the boot order has those with a place first, then the other disks, and no other NIC', () => {
  const order = bootOrder({ disks: [disk('a'), disk('b', 5), disk('c')], nics: [nic('m0', 2), nic('m1')] });
  assert.deepEqual(order, [{ mac: 'm0' }, { disk: 'b' }, { disk: 'a' }, { disk: 'c' }]);
  assert.equal(placeIn(order, { disk: 'b' }), 2);
  assert.equal(placeIn(order, { mac: 'm1' }), undefined);
});

suite('a word for what is booted from', () => {
  const devices = {
    disks: [disk('root'), disk('data', 3), cdrom('setup'), cdrom('tools', 1)],
    nics: [nic('52:54:00:00:00:01'), nic('52:54:00:00:00:02')],
  };

  test('is a name or an address, or a kind, whose first in the order is meant', () => {
    assert.deepEqual(bootDeviceOf('root', devices), { disk: 'root' });
    assert.deepEqual(bootDeviceOf('52:54:00:00:00:02', devices), { mac: '52:54:00:00:00:02' });
    assert.deepEqual(bootDeviceOf('disk', devices), { disk: 'data' });
    assert.deepEqual(bootDeviceOf('cdrom', devices), { disk: 'tools' });
    assert.deepEqual(bootDeviceOf('network', devices), { mac: '52:54:00:00:00:01' });
  });

  test('is a disk of that name before it is a kind', () => {
    assert.deepEqual(bootDeviceOf('cdrom', { disks: [cdrom('first'), disk('cdrom')], nics: [] }), { disk: 'cdrom' });
  });

  test('is nothing where there is none', () => {
    assert.equal(bootDeviceOf('network', { disks: devices.disks, nics: [] }), null);
    assert.equal(bootDeviceOf('floppy', devices), null);
  });
});

test('a NIC is described by its network', () => {
  assert.equal(describeBootDevice({ mac: 'm0' }, { nics: [nic('m0')] }), 'network lab (m0)');
  assert.equal(describeBootDevice({ disk: 'root' }, { nics: [] }), 'root');
});
