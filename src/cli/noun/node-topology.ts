// lodge node topology: how the processors and the memory of a machine are arranged, as a picture of text.
import type { Command } from 'commander';
import type { NodeTopology } from '../../api/node-topology.ts';
import { formatNumberList } from '../../lib/number-list.ts';
import { formatMib } from '../../lib/quantity.ts';
import { documentFormats, verb, withDaemon } from '../command.ts';
import { printDocument } from '../output/print.ts';
import { type Style } from '../output/style.ts';
import { renderTable, type Column } from '../output/table.ts';

type Cpu = NodeTopology['cpus'][number];
type Cache = NodeTopology['caches'][number];
type NumaNode = NodeTopology['numaNodes'][number];

function sizeOfCache({ sizeKib }: Cache): string {
  return sizeKib >= 1024 ? `${sizeKib / 1024} MiB` : `${sizeKib} KiB`;
}

/** What is particular of a thread, in one letter each; the picture explains those that occur in it. */
const marks: readonly { letter: string; meaning: string; holds: (cpu: Cpu) => boolean }[] = [
  { letter: 'i', meaning: 'isolated: only what is pinned to it runs there', holds: ({ isIsolated }) => isIsolated },
  { letter: 't', meaning: 'without timer tick while one task runs', holds: ({ isTickless }) => isTickless },
  { letter: 'p', meaning: 'performance core', holds: ({ kind }) => kind === 'performance' },
  { letter: 'e', meaning: 'efficiency core', holds: ({ kind }) => kind === 'efficiency' },
];

function cpuText(cpu: Cpu): string {
  return `${cpu.id}${marks.map(({ letter, holds }) => (holds(cpu) ? letter : '')).join('')}`;
}

/** The last cache that several cores share, for which the picture draws a box each; null: they share none. */
function sharedLevel({ caches }: NodeTopology): number | null {
  const levels = caches.filter(({ type, level }) => type === 'unified' && level >= 2).map(({ level }) => level);
  return levels.length === 0 ? null : Math.max(...levels);
}

/** Cores as `[0 4]`, a line broken where it gets too long. */
function coreLines(cpus: readonly Cpu[], width: number, style: Style): string[] {
  const cores = new Map<number, Cpu[]>();
  for (const cpu of cpus) cores.set(cpu.siblings[0] ?? cpu.id, [...(cores.get(cpu.siblings[0] ?? cpu.id) ?? []), cpu]);
  const lines: string[] = [];
  let line = '';
  for (const threads of cores.values()) {
    const text = `[${threads.map(cpuText).join(' ')}]`;
    if (line !== '' && line.length + text.length + 1 > width) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? text : `${line} ${text}`;
  }
  if (line !== '') lines.push(line);
  return lines.map(style.cyan);
}

/** Sockets, NUMA nodes in them, groups of cores by the cache that they share. */
function picture(topology: NodeTopology, width: number, style: Style): string[] {
  const lines: string[] = [];
  const online = topology.cpus.filter(({ isOnline }) => isOnline);
  const level = sharedLevel(topology);
  for (const socket of new Set(online.map((cpu) => cpu.socket))) {
    lines.push(style.bold(`Socket ${socket}`));
    const inSocket = online.filter((cpu) => cpu.socket === socket);
    const dies = new Set(inSocket.map(({ die }) => die));
    for (const numaNode of new Set(inSocket.map((cpu) => cpu.numaNode))) {
      lines.push(`  NUMA node ${numaNode ?? '?'}`);
      const inNode = inSocket.filter((cpu) => cpu.numaNode === numaNode);
      const groups = new Map<string, Cpu[]>();
      for (const cpu of inNode) {
        const cache = topology.caches.find((one) => one.level === level && one.cpus.includes(cpu.id));
        const what = [
          ...(dies.size > 1 ? [`die ${cpu.die}`] : []),
          ...(cache ? [`L${cache.level} ${sizeOfCache(cache)} of CPUs ${formatNumberList(cache.cpus)}`] : []),
        ].join(', ');
        groups.set(what, [...(groups.get(what) ?? []), cpu]);
      }
      for (const [what, cpus] of groups) {
        if (what !== '') lines.push(style.dim(`    ${what}`));
        lines.push(...coreLines(cpus, width - 6, style).map((line) => `      ${line}`));
      }
    }
  }
  return lines;
}

function legend(topology: NodeTopology): string {
  const used = marks.filter(({ holds }) => topology.cpus.some(holds));
  const example =
    topology.cpus.find(({ siblings }) => siblings.length > 1) ?? topology.cpus.find((cpu) => cpu.isOnline);
  const siblings = example?.siblings ?? [0];
  const first = `[${siblings.join(' ')}] is a core${siblings.length > 1 ? ' with its threads' : ''}`;
  return [first, ...used.map(({ letter, meaning }) => `${letter}: ${meaning}`)].join('; ');
}

function frequencyText(topology: NodeTopology): string | null {
  const values = (pick: (cpu: Cpu) => number | null): number[] =>
    topology.cpus.flatMap((cpu) => pick(cpu) ?? []).toSorted((a, b) => a - b);
  const range = (numbers: readonly number[]): string =>
    numbers[0] === numbers.at(-1) ? `${numbers[0]}` : `${numbers[0]}–${numbers.at(-1)}`;
  const [now, base, max] = [values((cpu) => cpu.nowMhz), values((cpu) => cpu.baseMhz), values((cpu) => cpu.maxMhz)];
  const governors = [...new Set(topology.cpus.flatMap(({ governor }) => governor ?? []))];
  const parts = [
    ...(now.length > 0 ? [`${range(now)} MHz now`] : []),
    ...(base.length > 0 ? [`base ${range(base)}`] : []),
    ...(max.length > 0 ? [`at most ${range(max)}`] : []),
    ...(governors.length > 0 ? [`governor ${governors.join(', ')}`] : []),
  ];
  return parts.length === 0 ? null : parts.join(', ');
}

function numaColumns(topology: NodeTopology): Column<NumaNode>[] {
  const sizes = [...new Set(topology.numaNodes.flatMap(({ hugePages }) => hugePages.map(({ sizeMib }) => sizeMib)))];
  return [
    { header: 'NUMA NODE', value: ({ id }) => String(id), side: 'right' },
    { header: 'CPUS', value: ({ cpus }) => (cpus.length === 0 ? 'none' : formatNumberList(cpus)) },
    {
      header: 'MEMORY FREE',
      value: ({ freeMib, totalMib }) =>
        totalMib === 0 ? 'no memory' : `${formatMib(freeMib)} of ${formatMib(totalMib)}`,
      side: 'right',
    },
    { header: 'DISTANCES', value: ({ distances }) => distances.join(' ') },
    ...sizes.map((size): Column<NumaNode> => ({
      header: `PAGES OF ${formatMib(size).toUpperCase()} FREE`,
      value: ({ hugePages }) => {
        const pool = hugePages.find(({ sizeMib }) => sizeMib === size);
        return pool ? `${pool.free} of ${pool.total}` : '';
      },
      side: 'right',
    })),
  ];
}

/** What `lodge node topology` prints. */
export function topologyLines(
  topology: NodeTopology,
  { width, style }: { width: number | null; style: Style },
): string[] {
  const online = topology.cpus.filter(({ isOnline }) => isOnline);
  const offline = topology.cpus.filter(({ isOnline }) => !isOnline).map(({ id }) => id);
  const count = (number: number, one: string): string => `${number} ${one}${number === 1 ? '' : 's'}`;
  const heads = [
    count(topology.sockets, 'socket'),
    count(topology.cores, 'core'),
    count(online.length, 'CPU'),
    count(topology.numaNodes.length, 'NUMA node'),
  ];
  const small = topology.caches.filter(({ level }) => level < (sharedLevel(topology) ?? 99));
  const kinds = new Map(
    small.map((cache) => [`L${cache.level} ${cache.type} ${sizeOfCache(cache)}`, cache.cpus.length] as const),
  );
  const frequency = frequencyText(topology);
  return [
    style.bold(heads.join(', ')),
    ...(frequency === null ? [] : [`Frequency: ${frequency}`]),
    ...(kinds.size === 0
      ? []
      : [
          `Caches: ${[...kinds].map(([what, by]) => `${what} for ${by === 1 ? 'each CPU' : `every ${by} CPUs`}`).join(', ')}`,
        ]),
    ...(offline.length === 0 ? [] : [style.yellow(`Offline: ${formatNumberList(offline)}`)]),
    '',
    ...picture(topology, width ?? 100, style),
    style.dim(legend(topology)),
    '',
    ...renderTable(numaColumns(topology), topology.numaNodes, { width, style }),
  ];
}

/** The verb `topology` of `lodge node`. */
export function addNodeTopologyVerb(node: Command): void {
  verb(node, 'topology [node]', 'Show how the processors, caches and memory of a machine are arranged', {
    formats: documentFormats,
    examples: [
      ['lodge node topology', 'which CPUs share a core, a cache, a NUMA node'],
      ["lodge node topology -o json | jq '.numaNodes'", 'memory and huge pages of each NUMA node'],
    ],
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const topology = await session.client.node.topology({ params: { node: name ?? 'self' } });
      await printDocument(session, topology, () => topologyLines(topology, session.terminal));
    }),
  );
}
