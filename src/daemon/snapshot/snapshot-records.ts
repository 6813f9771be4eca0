// Snapshots as they are kept: an object each, and beside it what the VM was at that moment, which a revert needs and nobody
// is shown (its spec may hold secrets).
//
//   /lodge/snapshots/ID, /lodge/snapshots-status/ID   the object; its `project` is the id of its VM, so that names are
//                                                     unique in the VM
//   /lodge/snapshot-origins/ID                        what the VM was
import { type Snapshot, type SnapshotStatus } from '../../api/snapshot.ts';
import { type Vm } from '../../api/vm.ts';
import { Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type Store } from '../store/store.ts';

/** What is kept of a status; the rest is looked up when it is shown. */
export type KeptStatus = Pick<
  SnapshotStatus,
  'state' | 'reason' | 'takenAt' | 'parentId' | 'consistency' | 'consistencyReason' | 'memoryBytes' | 'pauseMs'
> & {
  disks: { name: string; volumeId: string; layerId: string }[];
  /** Its layers are being merged: nothing can go back to it any more. */
  isGivenUp: boolean;
  /** SHA-256 of the saved memory. */
  memoryChecksum: string | null;
  /** When the VM last began to go on from it: of the snapshots of a VM the latest is the current one. */
  currentSince: string | null;
};

export type KeptSnapshot = Omit<Snapshot, 'status'> & { status: KeptStatus };

/** What a VM was when its snapshot was taken. */
export interface SnapshotOrigin {
  spec: Vm['spec'];
  status: Pick<Vm['status'], 'startedSpec' | 'pinned' | 'nics' | 'disks'>;
}

const originPrefix = '/lodge/snapshot-origins/';

export function initialSnapshotStatus(): KeptStatus {
  return {
    state: 'creating',
    reason: 'It is being taken.',
    takenAt: null,
    parentId: null,
    consistency: null,
    consistencyReason: '',
    memoryBytes: null,
    pauseMs: null,
    disks: [],
    isGivenUp: false,
    memoryChecksum: null,
    currentSince: null,
  };
}

export class SnapshotRecords {
  readonly collection: Collection<KeptSnapshot>;
  readonly #store: Store;

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.collection = new Collection<KeptSnapshot>({
      store,
      noun: 'snapshot',
      plural: 'snapshots',
      initialStatus: initialSnapshotStatus,
      log,
    });
  }

  load(): Promise<void> {
    return this.collection.load();
  }

  close(): Promise<void> {
    return this.collection.close();
  }

  /** The snapshots of a VM, oldest first. */
  of(vmId: string): KeptSnapshot[] {
    return [...this.collection.all()]
      .filter(({ project }) => project === vmId)
      .toSorted((left, right) => (left.id < right.id ? -1 : 1));
  }

  /** The one that the VM goes on from. */
  currentOf(vmId: string): KeptSnapshot | null {
    return this.of(vmId).reduce<KeptSnapshot | null>((latest, one) => {
      if (one.status.currentSince === null || one.status.state === 'creating') return latest;
      return latest !== null && latest.status.currentSince! >= one.status.currentSince ? latest : one;
    }, null);
  }

  /** From now on the VM goes on from this one; null: from none. */
  async setCurrent(vmId: string, snapshotId: string | null): Promise<void> {
    if (snapshotId !== null) {
      await this.#patch(snapshotId, { currentSince: new Date().toISOString() });
      return;
    }
    for (const { id } of this.of(vmId)) await this.#patch(id, { currentSince: null });
  }

  async origin(id: string): Promise<SnapshotOrigin | null> {
    const found = await this.#store.get(originPrefix + id);
    return found && (JSON.parse(found.value) as SnapshotOrigin);
  }

  async keepOrigin(id: string, vm: Vm): Promise<void> {
    const { startedSpec, pinned, nics, disks } = vm.status;
    const origin: SnapshotOrigin = { spec: vm.spec, status: { startedSpec, pinned, nics, disks } };
    await this.#store.transact({ success: [{ put: originPrefix + id, value: JSON.stringify(origin) }] });
  }

  async #patch(id: string, patch: Partial<KeptStatus>): Promise<void> {
    if (this.collection.get(id)) await this.collection.setStatus(id, (status) => ({ ...status, ...patch }));
  }

  /** Removes a snapshot; those that were taken after it have its parent from then on. Can be repeated. */
  async remove(id: string): Promise<void> {
    const gone = this.collection.get(id);
    if (gone) {
      const { parentId } = gone.status;
      const isCurrent = this.currentOf(gone.project)?.id === id;
      for (const child of this.of(gone.project)) {
        if (child.status.parentId === id) await this.#patch(child.id, { parentId });
      }
      if (isCurrent) await this.setCurrent(gone.project, parentId);
      await this.collection.delete(id);
    }
    await this.#store.transact({ success: [{ delete: originPrefix + id }] });
  }
}
