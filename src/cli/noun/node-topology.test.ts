import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeTopology } from '../../api/node-topology.ts';
import { plainStyle } from '../output/style.ts';
import { topologyLines } from './node-topology.ts';

function cpu(id: number, place: Partial<NodeTopology['cpus'][number]> = {}): NodeTopology['cpus'][number] {
  return {
    id,
    isOnline: true,
    socket: 0,
    die: 0,
    core: id,
    numaNode: 0,
    siblings: [id],
    kind: null,
    minMhz: null,
    baseMhz: null,
    maxMhz: null,
    nowMhz: 2000,
    governor: null,
    isIsolated: false,
    isTickless: false,
    ...place,
  };
}

test('cores stand with their threads in their cache, NUMA node and socket', () => {
  const lines = topologyLines(
    {
      sockets: 2,
      cores: 3,
      cpus: [
        cpu(0, { siblings: [0, 2] }),
        cpu(1, { socket: 1, numaNode: 1 }),
        cpu(2, { siblings: [0, 2] }),
        cpu(3, { isIsolated: true, isTickless: true }),
        cpu(9, { isOnline: false, socket: null, die: null, core: null, numaNode: null }),
      ],
      caches: [
        { level: 1, type: 'data', sizeKib: 32, cpus: [0, 2] },
        { level: 3, type: 'unified', sizeKib: 32_768, cpus: [0, 2, 3] },
        { level: 3, type: 'unified', sizeKib: 16_384, cpus: [1] },
      ],
      numaNodes: [
        { id: 0, totalMib: 4096, freeMib: 1024, cpus: [0, 2, 3], distances: [10, 21], hugePages: [] },
        { id: 1, totalMib: 0, freeMib: 0, cpus: [1], distances: [21, 10], hugePages: [] },
      ],
    },
    { width: null, style: plainStyle },
  );
  assert.deepEqual(lines, [
    '2 sockets, 3 cores, 4 CPUs, 2 NUMA nodes',
    'Frequency: 2000 MHz now',
    'Caches: L1 data 32 KiB for every 2 CPUs',
    'Offline: 9',
    '',
    'Socket 0',
    '  NUMA node 0',
    '    L3 32 MiB of CPUs 0,2-3',
    '      [0 2] [3it]',
    'Socket 1',
    '  NUMA node 1',
    '    L3 16 MiB of CPUs 1',
    '      [1]',
    '[0 2] is a core with its threads; i: isolated: only what is pinned to it runs there; t: without timer tick while one task runs',
    '',
    'NUMA NODE  CPUS      MEMORY FREE  DISTANCES',
    '        0  0,2-3  1 GiB of 4 GiB  10 21',
    '        1  1           no memory  21 10',
  ]);
});
