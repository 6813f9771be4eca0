import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmSpec } from '../../api/vm-spec.ts';
import { type GuestDefinition } from '../driver.ts';
import { inOrderOf, planRoom } from './room.ts';
import { assignSlots, freeSlot } from './slots.ts';

test('a device keeps its slot, a new one gets the first that is free, and beyond the last there is none', () => {
  assert.deepEqual(assignSlots(['a', 'b', 'c'], { b: 1, gone: 2 }, 31), { b: 1, a: 2, c: 3 });
  assert.deepEqual(assignSlots(['a', 'b'], { a: 1, b: 1 }, 31), { a: 1, b: 2 }, 'no two have the same');
  assert.deepEqual(assignSlots(['a', 'b', 'c'], {}, 2), { a: 1, b: 2 });
  assert.equal(freeSlot({ a: 1, b: 2 }, 2), null);
});

test('places stay in the order in which they were taken', () => {
  assert.deepEqual(Object.keys(inOrderOf({ c: 3, a: 1, new: 4 }, { a: 1, b: 2, c: 3 })), ['a', 'c', 'new']);
});

test('a copy has the room of its original, and its NICs in their order at the same places', () => {
  const nic = (mac: string) => ({ mac });
  const hotplug = {
    baseVcpus: 1,
    maxVcpus: 4,
    baseMemoryMib: 512,
    maxMemoryMib: 2048,
    slots: { 'disk-root': 1, 'nic-525400000001': 2, 'nic-525400000002': 5 },
    targets: {},
  };
  const definition = {
    spec: vmSpec.parse({ memoryMib: 768 }),
    pinned: { hotplug },
    disks: [],
    nics: [nic('52:54:00:00:00:08'), nic('52:54:00:00:00:09')],
  } as unknown as GuestDefinition;
  const { slots, baseMemoryMib } = planRoom(definition, true);
  assert.deepEqual(slots, { 'nic-525400000008': 2, 'nic-525400000009': 5, 'disk-root': 1 });
  assert.equal(baseMemoryMib, 512);
});
