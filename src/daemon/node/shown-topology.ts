// The arrangement of a machine as the API shows it.
import { type NodeTopology } from '../../api/node-topology.ts';
import { type MachineTopology } from '../../host/topology.ts';

const mib = 2 ** 20;

export function shownTopology({ processors, caches, nodes }: MachineTopology): NodeTopology {
  const online = processors.filter(({ isOnline }) => isOnline);
  return {
    sockets: new Set(online.map(({ socket }) => socket)).size,
    cores: new Set(online.map(({ siblings }) => siblings[0])).size,
    cpus: processors.map(({ node, siblings, ...rest }) => ({ ...rest, numaNode: node, siblings: [...siblings] })),
    caches: caches.map(({ level, type, sizeBytes, processors: cpus }) => ({
      level,
      type,
      sizeKib: sizeBytes / 1024,
      cpus: [...cpus],
    })),
    numaNodes: nodes.map(({ id, totalBytes, freeBytes, processors: cpus, distances, hugePages }) => ({
      id,
      totalMib: Math.floor(totalBytes / mib),
      freeMib: Math.floor(freeBytes / mib),
      cpus: [...cpus],
      distances: [...distances],
      hugePages: hugePages.map(({ pageBytes, total, free }) => ({ sizeMib: pageBytes / mib, total, free })),
    })),
  };
}
