// Snapshots as the API shows them: what is kept, with what can be looked up.
import { stat } from 'node:fs/promises';
import { type Snapshot } from '../../api/snapshot.ts';
import { type Vm } from '../../api/vm.ts';
import { type VolumeLayers } from '../volume/volume-layers.ts';
import { type KeptSnapshot, type SnapshotRecords } from './snapshot-records.ts';

/** From this many layers of a disk on people are warned: each one more is one more place to look for what was not written. */
const warnDepth = 16;

export interface SnapshotViewParts {
  records: SnapshotRecords;
  layers: VolumeLayers;
  memoryPath: (vmId: string, snapshotId: string) => string;
}

export async function viewSnapshot(parts: SnapshotViewParts, vm: Vm, kept: KeptSnapshot): Promise<Snapshot> {
  const { layers, records } = parts;
  const { disks, isGivenUp: _isGivenUp, memoryChecksum: _checksum, currentSince: _since, ...shown } = kept.status;
  const found = disks.map((disk) => ({ ...disk, layer: layers.get(disk.layerId) }));
  const sizes = await Promise.all(found.map(async ({ layer }) => (layer ? layers.sizeOf(layer) : null)));
  const depth = Math.max(0, ...found.map(({ layer }) => (layer ? layers.depthOf(layer) : 0)));
  const memory =
    kept.status.memoryBytes === null
      ? 0
      : await stat(parts.memoryPath(vm.id, kept.id)).then(
          ({ blocks }) => blocks * 512,
          () => 0,
        );
  return {
    ...kept,
    project: vm.project,
    status: {
      ...shown,
      vmId: vm.id,
      vm: vm.name,
      isCurrent: records.currentOf(vm.id)?.id === kept.id,
      disks: disks.map((disk, index) => ({ ...disk, sizeBytes: sizes[index] ?? null })),
      sizeBytes: sizes.reduce<number>((sum, size) => sum + (size ?? 0), memory),
      depth,
      warning: warningOf(depth),
    },
  };
}

function warningOf(depth: number): string | null {
  if (depth <= warnDepth) return null;
  return `A disk has ${depth} layers here; from ${warnDepth} on reading gets slower. Delete snapshots that are not needed any more.`;
}
