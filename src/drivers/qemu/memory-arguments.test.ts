import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type VmPlacement } from '../../api/vm-placement.ts';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { addMemory } from './memory-arguments.ts';

function memory(
  spec: VmSpecInput,
  from: VmPlacement['memory'] = { policy: 'default', numaNodes: [] },
  isShared = false,
): { args: string[]; machine: string[] } {
  const args: string[] = [];
  const placement: VmPlacement = {
    policy: 'shared',
    vcpus: [],
    emulator: '0',
    ioThreads: '0',
    exclusiveCpus: '',
    numaNodes: [0],
    memory: from,
    reasons: [],
    shortages: [],
  };
  const machine = addMemory(
    { spec: vmSpec.parse(spec), placement },
    { baseMemoryMib: spec.memoryMib ?? 512 },
    isShared,
    { add: (...more) => void args.push(...more) },
  );
  return { args, machine };
}

test('memory from anywhere is left to QEMU, or is one shared file', () => {
  assert.deepEqual(memory({}), { args: [], machine: [] });
  assert.deepEqual(memory({}, undefined, true), {
    args: ['-object', 'memory-backend-memfd,id=pc.ram,size=512M,share=on'],
    machine: ['memory-backend=pc.ram'],
  });
});

test('memory of NUMA nodes is bound to them', () => {
  const { args, machine } = memory({}, { policy: 'strict', numaNodes: [0, 2] });
  assert.deepEqual(JSON.parse(args[1]!), {
    'qom-type': 'memory-backend-ram',
    id: 'pc.ram',
    size: 512 * 2 ** 20,
    policy: 'bind',
    'host-nodes': [0, 2],
  });
  assert.deepEqual(machine, ['memory-backend=pc.ram']);
  assert.match(memory({ machine: 'microvm' }, { policy: 'preferred', numaNodes: [1] }, true).args[1]!, /microvm\.ram/);
});

test('NUMA nodes of the guest have their vCPUs and memory, each where it was told to be', () => {
  const { args, machine } = memory(
    {
      memoryMib: 384,
      cpu: { count: 4 },
      numa: {
        policy: 'preferred',
        nodes: '0-1',
        cells: [
          { vcpus: '0,2-3', memoryMib: 256, hostNode: 1 },
          { vcpus: '1', memoryMib: 128 },
        ],
      },
    },
    { policy: 'preferred', numaNodes: [0, 1] },
  );
  assert.deepEqual(machine, []);
  assert.deepEqual(
    args.filter((argument) => !argument.startsWith('{')),
    [
      '-object',
      '-numa',
      'node,nodeid=0,cpus=0,cpus=2-3,memdev=ram-node0',
      '-object',
      '-numa',
      'node,nodeid=1,cpus=1,memdev=ram-node1',
    ],
  );
  const backends = args.filter((argument) => argument.startsWith('{')).map((text) => JSON.parse(text) as object);
  assert.deepEqual(backends, [
    { 'qom-type': 'memory-backend-ram', id: 'ram-node0', size: 2 ** 28, policy: 'preferred', 'host-nodes': [1] },
    { 'qom-type': 'memory-backend-ram', id: 'ram-node1', size: 2 ** 27, policy: 'preferred', 'host-nodes': [0, 1] },
  ]);
});
