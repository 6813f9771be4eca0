// The block graph of a running QEMU: which layers each disk has, in which nodes, over which sets of descriptors. What QEMU
// answers is the truth, whoever started it.
import { LodgeError } from '../../api/errors.ts';
import { diskOfDevice, layerNode } from './device-arguments.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** A layer that a QEMU has open. */
export interface OpenLayer {
  node: string;
  /** Path of its file, as it was given with its descriptor. */
  path: string;
  /** The set of descriptors its file is opened from. */
  fdset: number;
}

export interface BlockGraph {
  /** By the name of the disk, the layer that is written first. */
  disks: ReadonlyMap<string, readonly OpenLayer[]>;
  /** All that are open, also beside the disks, by node. */
  layers: ReadonlyMap<string, OpenLayer>;
  /** Cache options of each node, as `blockdev-add` takes them. */
  cacheOf: (node: string) => { direct: boolean; 'no-flush': boolean };
}

/** See layerNode in device-arguments.ts. */
const layerName = /^l[0-9a-f]{24}$/;
/** Names that layers had before. */
const oldName = /^disk\d+-\d+$/;
const fdsetName = /^\/dev\/fdset\/(\d+)$/;

/** Reads the graph. Throws `unsupported` for a QEMU that was started when layers had no names. */
export async function readBlockGraph(qmp: QmpConnection, vm: string): Promise<BlockGraph> {
  const [stats, nodes, fdsets, peripherals] = await Promise.all([
    qmp.execute('query-blockstats'),
    qmp.execute('query-named-block-nodes', { flat: true }),
    qmp.execute('query-fdsets'),
    qmp.execute('qom-list', { path: '/machine/peripheral' }),
  ]);
  const diskNames = peripherals.flatMap(({ name }) => diskOfDevice(`/machine/peripheral/${name}`) ?? []);
  const paths = new Map(fdsets.map((set) => [set['fdset-id'], set.fds.find(({ opaque }) => opaque)?.opaque]));
  const byName = new Map(nodes.map((node) => [node['node-name'] ?? '', node]));
  const layers = new Map<string, OpenLayer>();
  for (const node of byName.keys()) {
    if (!layerName.test(node)) continue;
    const fdset = Number(fdsetName.exec(byName.get(`${node}-file`)?.file ?? '')?.[1] ?? Number.NaN);
    const path = paths.get(fdset);
    if (path !== undefined) layers.set(node, { node, path, fdset });
  }
  const disks = new Map<string, OpenLayer[]>();
  for (const device of stats) {
    const names = chainOf(device);
    // Beside layers a chain has only what jobs put between them.
    const open = names.map((name) => layers.get(name)).filter((layer) => layer !== undefined);
    if (names.some((name) => oldName.test(name))) {
      throw new LodgeError('unsupported', `The disks of VM ${vm} were opened by a Lodge that had no snapshots.`, {
        hint: 'Restart the VM once: lodge vm restart.',
      });
    }
    // Not by the device's place in the tree of objects: some kinds, as NVMe, hang the disk elsewhere.
    const disk = diskNames.find((name) => open.some(({ node, path }) => layerNode(name, path) === node));
    if (disk !== undefined) disks.set(disk, open);
  }
  return {
    disks,
    layers,
    cacheOf: (node) => {
      const cache = byName.get(node)?.cache;
      return { direct: cache?.direct ?? false, 'no-flush': cache?.['no-flush'] ?? false };
    },
  };
}

/** Names of the nodes of a device, the one it uses first. */
function chainOf(stats: unknown): string[] {
  const names: string[] = [];
  for (let next = stats; typeof next === 'object' && next !== null;) {
    const { 'node-name': name, backing } = next as { 'node-name'?: unknown; backing?: unknown };
    if (typeof name === 'string') names.push(name);
    next = backing;
  }
  return names;
}
