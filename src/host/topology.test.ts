import assert from 'node:assert/strict';
import { test } from 'node:test';
import { onlineProcessors, parseCacheSize, readTopology } from './topology.ts';
import { recordedMachine } from '../../test/support/recorded-machine.ts';
import { arrangedMachine, hybrid, oneSocket, twoSockets } from '../../test/support/recorded-topology.ts';

test('a socket of four cores with two threads each shows who shares a core and which cache', () => {
  const { processors, caches, nodes } = readTopology(arrangedMachine(oneSocket));
  assert.equal(processors.length, 8);
  assert.deepEqual(processors[5], {
    id: 5,
    isOnline: true,
    socket: 0,
    die: 0,
    core: 1,
    node: 0,
    siblings: [1, 5],
    kind: null,
    minMhz: 800,
    baseMhz: 2000,
    maxMhz: 4800,
    nowMhz: 3100,
    governor: 'powersave',
    isIsolated: false,
    isTickless: false,
  });
  assert.deepEqual(
    caches.map(({ level, type, sizeBytes, processors: by }) => `${level} ${type} ${sizeBytes / 1024} ${by.join()}`),
    [
      ...[0, 1, 2, 3].map((core) => `1 data 48 ${core},${core + 4}`),
      ...[0, 1, 2, 3].map((core) => `1 instruction 32 ${core},${core + 4}`),
      ...[0, 1, 2, 3].map((core) => `2 unified 2048 ${core},${core + 4}`),
      '3 unified 32768 0,1,2,3,4,5,6,7',
    ],
  );
  assert.equal(nodes.length, 1);
});

test('two sockets are two NUMA nodes with memory, distances and huge pages of their own', () => {
  const { processors, nodes, caches } = readTopology(arrangedMachine(twoSockets));
  assert.deepEqual(
    processors.map(({ socket, node }) => [socket, node]),
    [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1].map((place) => [place, place]),
  );
  assert.deepEqual(nodes[1]?.processors, [4, 5, 6, 7, 12, 13, 14, 15]);
  assert.deepEqual(nodes[1]?.distances, [21, 10]);
  assert.equal(nodes[0]?.freeBytes, 8192 * 2 ** 20);
  assert.deepEqual(nodes[0]?.hugePages, [{ pageBytes: 2 ** 21, total: 1024, free: 512, reserved: 0 }]);
  assert.deepEqual(
    caches.filter(({ level }) => level === 3).map(({ processors: by }) => by.join()),
    ['0,1,8,9', '2,3,10,11', '4,5,12,13', '6,7,14,15'],
  );
});

test('cores of two kinds are told apart', () => {
  const { processors } = readTopology(arrangedMachine(hybrid));
  assert.deepEqual(
    processors.map(({ kind }) => kind?.[0]),
    ['p', 'p', 'p', 'p', 'e', 'e', 'e', 'e'],
  );
  assert.deepEqual(processors[7]?.siblings, [7]);
});

test('a processor that is offline is there without a place, and nobody’s sibling', () => {
  const topology = readTopology(arrangedMachine({ ...oneSocket, offline: [1, 6] }));
  const { processors, caches } = topology;
  assert.equal(processors.length, 8);
  const offline = processors.filter(({ isOnline }) => !isOnline);
  assert.deepEqual(
    offline.map(({ id, socket, core, node, siblings }) => ({ id, socket, core, node, siblings })),
    [1, 6].map((id) => ({ id, socket: null, core: null, node: null, siblings: [id] })),
  );
  assert.deepEqual(processors[5]?.siblings, [5]);
  assert.deepEqual(onlineProcessors(topology), [0, 2, 3, 4, 5, 7]);
  assert.deepEqual(caches.at(-1)?.processors, [0, 2, 3, 4, 5, 7]);
});

test('NUMA nodes without memory and without processors are there', () => {
  const { nodes } = readTopology(
    arrangedMachine({
      cores: [
        { core: 0, threads: [0], node: 0 },
        { core: 1, threads: [1], node: 1 },
      ],
      nodes: [
        { id: 0, mib: 4096, distances: [10, 20, 17] },
        { id: 1, mib: 0, distances: [20, 10, 28] },
        { id: 4, mib: 8192, distances: [17, 28, 10] },
      ],
    }),
  );
  assert.deepEqual(
    nodes.map(({ id, totalBytes, processors }) => [id, totalBytes / 2 ** 20, processors]),
    [
      [0, 4096, [0]],
      [1, 0, [1]],
      [4, 8192, []],
    ],
  );
});

test('isolated and tickless processors are told, and “(null)” is none', () => {
  const isolated = readTopology(arrangedMachine({ ...oneSocket, isolated: '2-3,6-7', nohzFull: '3,7' })).processors;
  assert.deepEqual(
    isolated.filter((one) => one.isIsolated).map(({ id }) => id),
    [2, 3, 6, 7],
  );
  assert.deepEqual(
    isolated.filter((one) => one.isTickless).map(({ id }) => id),
    [3, 7],
  );
  const none = readTopology(arrangedMachine({ ...oneSocket, nohzFull: ' (null)' })).processors;
  assert.ok(none.every((one) => !one.isTickless));
});

test('without frequency scaling the frequency of the moment is that of /proc/cpuinfo', () => {
  const { processors } = readTopology(arrangedMachine({ cores: [{ core: 0, threads: [0] }] }));
  const [{ minMhz, maxMhz, nowMhz } = assert.fail()] = processors;
  assert.deepEqual({ minMhz, maxMhz, nowMhz }, { minMhz: null, maxMhz: null, nowMhz: 2000 });
});

test('a machine that shows nothing has one processor in one NUMA node', () => {
  const { processors, caches, nodes } = readTopology(
    recordedMachine({ files: { '/proc/meminfo': 'MemTotal: 2048 kB\nMemFree: 1024 kB\n' } }),
  );
  assert.deepEqual(
    processors.map(({ id, isOnline, siblings, node }) => ({ id, isOnline, siblings, node })),
    [{ id: 0, isOnline: true, siblings: [0], node: 0 }],
  );
  assert.deepEqual(caches, []);
  assert.equal(nodes[0]?.totalBytes, 2048 * 1024);
});

test('sizes of caches are read in each unit', () => {
  assert.deepEqual(['48K', '2M', '1G', '512', 'many'].map(parseCacheSize), [49_152, 2 ** 21, 2 ** 30, 512, 0]);
});
