import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { roomOf } from './hot-plug-room.ts';

const node = { vcpus: 16, memoryMib: 65_536 };
const room = (input: VmSpecInput, on = node): [number, number] => {
  const { vcpus, memoryMib } = roomOf(vmSpec.parse(input), on);
  return [vcpus, memoryMib];
};

suite('the room of a VM', () => {
  test('is four times what it has, as far as the node has it, and never less than it has', () => {
    assert.deepEqual(room({ cpu: { count: 2 }, memoryMib: 1024 }), [8, 4096]);
    assert.deepEqual(room({ cpu: { count: 8 }, memoryMib: 32_768 }), [16, 65_536]);
    assert.deepEqual(room({ cpu: { count: 32 }, memoryMib: 131_072 }), [32, 131_072]);
  });

  test('is what the spec says where it does', () => {
    const spec = { cpu: { count: 2, maxCount: 3 }, memoryMib: 1024, maxMemoryMib: 1024 };
    assert.deepEqual(room(spec), [3, 1024]);
  });

  test('has no more vCPUs than a topology that was given, and no more memory than processors can address', () => {
    assert.deepEqual(room({ cpu: { count: 4, sockets: 2 } })[0], 4);
    const large = { vcpus: 1024, memoryMib: 4_194_304 };
    assert.deepEqual(room({ cpu: { count: 100 }, memoryMib: 400_000 }, large), [255, 524_288]);
  });
});
