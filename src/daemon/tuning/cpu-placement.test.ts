import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { readTopology } from '../../host/topology.ts';
import { parseNumberList } from '../../lib/number-list.ts';
import {
  arrangedMachine,
  hybrid,
  oneSocket,
  twoSockets,
  type RecordedArrangement,
} from '../../../test/support/recorded-topology.ts';
import { placeVm, type Neighbour, type PlacementResult, type PlacementWorld } from './cpu-placement.ts';

function place(
  arrangement: RecordedArrangement,
  spec: VmSpecInput,
  world: Partial<PlacementWorld> = {},
): PlacementResult {
  const { cpu, numa, memoryMib } = vmSpec.parse(spec);
  return placeVm(
    { cpu, numa, memoryMib, vcpus: cpu.count },
    { topology: readTopology(arrangedMachine(arrangement)), housekeeping: null, others: [], ...world },
  );
}

function cpusOf({ placement }: PlacementResult): string[] {
  return placement.vcpus.map(({ cpus }) => cpus);
}

const dedicated = (count: number, more: object = {}): VmSpecInput => ({ cpu: { count, policy: 'dedicated', ...more } });

test('a VM that asks for nothing may run anywhere, and its memory comes from anywhere', () => {
  const { placement, problems } = place(twoSockets, { cpu: { count: 2 } });
  assert.deepEqual(problems, []);
  assert.deepEqual(placement, {
    policy: 'shared',
    vcpus: [
      { vcpu: 0, cpus: '0-15' },
      { vcpu: 1, cpus: '0-15' },
    ],
    emulator: '0-15',
    ioThreads: '0-15',
    exclusiveCpus: '',
    numaNodes: [0, 1],
    memory: { policy: 'default', numaNodes: [] },
    reasons: [],
    shortages: [],
  });
});

test('shared VMs leave out the CPUs of dedicated ones, and those that are isolated', () => {
  const others: Neighbour[] = [{ name: 'db1', exclusive: [1, 5], named: [] }];
  const result = place({ ...oneSocket, isolated: '3,7' }, {}, { others });
  assert.deepEqual(cpusOf(result), ['0,2,4,6']);
  assert.match(result.placement.reasons.join(' '), /Left out: CPUs 1,5, which dedicated VMs have alone \(db1\)/);
});

test('pinning, affinity, emulator and I/O threads go where they are told to', () => {
  const result = place(oneSocket, {
    cpu: {
      count: 3,
      pinning: [
        { vcpu: 0, cpus: '1' },
        { vcpu: 2, cpus: '2-3' },
      ],
      affinity: '4-5',
      emulatorAffinity: '0',
      ioThreadAffinity: '6',
    },
  });
  assert.deepEqual(result.problems, []);
  assert.deepEqual(cpusOf(result), ['1', '4-5', '2-3']);
  assert.deepEqual([result.placement.emulator, result.placement.ioThreads], ['0', '6']);
});

test('a dedicated VM gets a core for each vCPU, not that of the machine, and the other threads stay idle', () => {
  const result = place(oneSocket, dedicated(2));
  assert.deepEqual(result.problems, []);
  assert.deepEqual(cpusOf(result), ['1', '2']);
  assert.equal(result.placement.exclusiveCpus, '1-2,5-6');
  assert.equal(result.placement.emulator, '0,4');
  assert.deepEqual(result.placement.reasons, [
    'Its own: cores [1 5] [2 6], free of other VMs and of the machine’s housekeeping (CPUs 0,4).',
    'Each vCPU has a core.',
    'The other thread of each core stays idle, so that nobody slows it down.',
    'What QEMU does besides runs on the housekeeping CPUs 0,4.',
  ]);
});

test('with too few cores the threads of a core serve as CPUs, and the threads of a guest’s core lie on one', () => {
  assert.deepEqual(cpusOf(place(oneSocket, dedicated(4))), ['1', '5', '2', '6']);
  const threads = place(oneSocket, dedicated(4, { sockets: 1, coresPerSocket: 2, threadsPerCore: 2 }));
  assert.deepEqual(cpusOf(threads), ['1', '5', '2', '6']);
  assert.match(threads.placement.reasons.join(' '), /threads of a core of the guest/);
});

test('a dedicated VM lies in one NUMA node that has the memory, and in one cache', () => {
  const large = place(twoSockets, { ...dedicated(2), memoryMib: 16_384 });
  assert.deepEqual(cpusOf(large), ['4', '5']);
  assert.deepEqual(large.placement.numaNodes, [1]);
  assert.deepEqual(large.placement.memory, { policy: 'preferred', numaNodes: [1] });
  assert.match(large.placement.reasons.join(' '), /all of NUMA node 1\. They share the last cache/);
  // The node that has fewer free cores, so that the other stays whole.
  assert.deepEqual(place(twoSockets, dedicated(2)).placement.numaNodes, [0]);
});

test('a dedicated VM that fits into no NUMA node is spread, and says so', () => {
  const result = place(twoSockets, dedicated(12));
  assert.deepEqual(result.placement.numaNodes, [0, 1]);
  assert.match(result.placement.reasons.join(' '), /NUMA nodes 0-1: none has enough free cores alone/);
  assert.equal(result.placement.memory.policy, 'interleave');
});

test('the CPUs of a dedicated VM lie where spec.numa says that its memory is', () => {
  const result = place(twoSockets, { ...dedicated(2), memoryMib: 512, numa: { nodes: '1' } });
  assert.deepEqual(result.placement.numaNodes, [1]);
  assert.deepEqual(result.placement.memory, { policy: 'strict', numaNodes: [1] });
  assert.deepEqual(cpusOf(place(twoSockets, { numa: { nodes: '1', policy: 'interleave' } })), ['4-7,12-15']);
});

test('cores of one kind are chosen, performance first', () => {
  assert.deepEqual(cpusOf(place(hybrid, dedicated(1))), ['2']);
  assert.deepEqual(cpusOf(place(hybrid, dedicated(3))), ['4', '5', '6']);
  assert.match(place(hybrid, dedicated(3)).placement.reasons.join(' '), /They are efficiency cores/);
  assert.match(place(hybrid, dedicated(5)).placement.reasons.join(' '), /both kinds/);
});

test('isolated cores are for dedicated VMs first', () => {
  const result = place({ ...oneSocket, isolated: '3,7' }, dedicated(1));
  assert.deepEqual(cpusOf(result), ['3']);
  assert.match(result.placement.reasons.join(' '), /isolated from the scheduler/);
});

test('CPUs that do not exist or are offline are told with what there is', () => {
  const { problems, placement } = place({ ...oneSocket, offline: [2] }, { cpu: { affinity: '1-2,64' } });
  assert.deepEqual(
    problems.map(({ field, message }) => `${field}: ${message}`),
    [
      'spec.cpu.affinity: CPU 64 does not exist; the node has 0-7',
      'spec.cpu.affinity: CPU 2 is offline; online are 0-1,3-7',
    ],
  );
  // Whoever starts it all the same has the rest.
  assert.equal(placement.vcpus[0]?.cpus, '1');
  assert.equal(placement.shortages.length, 2);
});

test('a core of a dedicated VM is nobody else’s, by pinning, affinity or dedication', () => {
  const others: Neighbour[] = [
    { name: 'db1', exclusive: [1, 5], named: [] },
    { name: 'web1', exclusive: [], named: [2] },
  ];
  const messages = (spec: VmSpecInput): string =>
    place(oneSocket, spec, { others })
      .problems.map(({ message }) => message)
      .join('; ');
  assert.match(messages({ cpu: { affinity: '5' } }), /CPU 5 belongs to VM db1 alone/);
  assert.match(messages(dedicated(1, { pinning: [{ vcpu: 0, cpus: '5' }] })), /CPU 5 belongs to VM db1 alone/);
  assert.match(messages(dedicated(1, { pinning: [{ vcpu: 0, cpus: '6' }] })), /VM web1 is pinned to CPU 2/);
  const both = [0, 1].map((vcpu) => ({ vcpu, cpus: '3' }));
  assert.match(messages(dedicated(2, { pinning: both })), /vCPUs 0 and 1 are both pinned to CPU 3/);
});

test('a dedicated VM that the node has no cores for is told whose the others are', () => {
  const others: Neighbour[] = [{ name: 'db1', exclusive: [1, 5, 2, 6], named: [] }];
  const { problems, placement } = place(oneSocket, dedicated(4), { others });
  assert.equal(
    problems[0]?.message,
    'it needs 4 CPUs of their own, and there are 2 on cores that are free (3,7); of the CPUs 0-7 of the node are taken 0,4 for the machine itself, 1-2,5-6 of VM db1',
  );
  assert.deepEqual([placement.policy, placement.exclusiveCpus, placement.vcpus[0]?.cpus], ['shared', '', '0,3-4,7']);
});

test('a core is always left to the machine, and configured housekeeping CPUs are never given away', () => {
  const one: RecordedArrangement = { cores: [{ core: 0, threads: [0] }] };
  assert.equal(place(one, dedicated(1)).problems.length, 1);
  assert.match(
    place(one, dedicated(1, { pinning: [{ vcpu: 0, cpus: '0' }] })).problems[0]!.message,
    /no core would be left for the machine/,
  );
  const kept = { housekeeping: [2, 6] };
  assert.deepEqual(cpusOf(place(oneSocket, dedicated(3), kept)), ['0', '1', '3']);
  assert.match(
    place(oneSocket, dedicated(1, { pinning: [{ vcpu: 0, cpus: '2' }] }), kept).problems[0]!.message,
    /housekeeping/,
  );
});

test('NUMA nodes that do not exist or have no memory are told with those that have', () => {
  const machine: RecordedArrangement = {
    cores: [
      { core: 0, threads: [0], node: 0 },
      { core: 1, threads: [1], node: 1 },
    ],
    nodes: [
      { id: 0, mib: 4096, distances: [10, 20] },
      { id: 1, mib: 0, distances: [20, 10] },
    ],
  };
  const { problems, placement } = place(machine, { numa: { nodes: '0-2' } });
  assert.deepEqual(
    problems.map(({ message }) => message),
    ['NUMA node 2 does not exist; memory have 0', 'NUMA node 1 has no memory; memory have 0'],
  );
  assert.deepEqual(placement.memory, { policy: 'strict', numaNodes: [0] });
  // A dedicated VM on CPUs whose NUMA node has no memory takes it from where there is some.
  assert.deepEqual(place(machine, dedicated(1)).placement.memory, { policy: 'default', numaNodes: [] });
});

test('whatever is asked for, no placement names a CPU that is offline or another VM’s own, and none shares a core', () => {
  const machines = [oneSocket, twoSockets, hybrid, { ...oneSocket, offline: [1, 6] }];
  fc.assert(
    fc.property(
      fc.constantFrom(...machines),
      fc.array(
        fc.record({
          count: fc.integer({ min: 1, max: 6 }),
          isDedicated: fc.boolean(),
          pins: fc.array(fc.tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 17 })), { maxLength: 3 }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
      (machine, wishes) => {
        const topology = readTopology(arrangedMachine(machine));
        const online = new Set(topology.processors.filter(({ isOnline }) => isOnline).map(({ id }) => id));
        const others: Neighbour[] = [];
        for (const [index, { count, isDedicated, pins }] of wishes.entries()) {
          const pinning = pins.map(([vcpu, cpu]) => ({ vcpu, cpus: String(cpu) }));
          const { placement } = place(
            machine,
            { cpu: { count, ...(isDedicated ? { policy: 'dedicated' as const } : {}), pinning } },
            { others },
          );
          const taken = new Set(others.flatMap(({ exclusive }) => exclusive));
          const named = [...placement.vcpus.flatMap(({ cpus }) => parseNumberList(cpus))];
          assert.ok(named.length > 0 && named.every((id) => online.has(id)));
          assert.ok(placement.vcpus.every(({ cpus }) => cpus !== ''));
          const exclusive = parseNumberList(placement.exclusiveCpus);
          if (taken.size < online.size) assert.ok(named.every((id) => !taken.has(id)));
          assert.ok(exclusive.every((id) => !taken.has(id) && online.has(id)));
          for (const id of exclusive)
            assert.ok(topology.processors[id]!.siblings.every((sibling) => exclusive.includes(sibling)));
          assert.ok(online.size > taken.size + exclusive.length, 'something is left to the machine');
          others.push({ name: `vm${index}`, exclusive, named: [] });
        }
      },
    ),
    { numRuns: 150 },
  );
});
