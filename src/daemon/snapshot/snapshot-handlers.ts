// Routes of snapshots.
import { type NounHandlers } from '../../api/contract.ts';
import { snapshot as snapshotSchema, type Snapshot } from '../../api/snapshot.ts';
import { type Vm } from '../../api/vm.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { lister } from '../store/list-page.ts';
import { toTask } from '../task/task.ts';
import { type VmService } from '../vm/vm-service.ts';
import { type SnapshotRecords } from './snapshot-records.ts';
import { type SnapshotService } from './snapshot-service.ts';

export function snapshotHandlers(
  snapshots: SnapshotService,
  { collection }: SnapshotRecords,
  vms: VmService,
): NounHandlers<'snapshot', RequestContext, ByteSource> {
  const list = lister(snapshotSchema, {
    all: (found: Snapshot[]) => found,
    revision: () => collection.revision,
  });
  const vmOf = ({ params, query }: { params: { vm: string }; query: { project: string } }): Vm =>
    vms.require(query.project, params.vm);
  return {
    list: async (request) => list(request.query, await snapshots.viewAll(vmOf(request))),
    create: async (request, { caller }) => toTask(await snapshots.create(vmOf(request), request.body, caller.name)),
    get: async (request) => {
      const vm = vmOf(request);
      return snapshots.view(vm, snapshots.require(vm, request.params.snapshot));
    },
    update: async (request) => {
      const vm = vmOf(request);
      return snapshots.update(vm, snapshots.require(vm, request.params.snapshot), request.body);
    },
    revert: async (request, { caller }) => {
      const vm = vmOf(request);
      const found = snapshots.require(vm, request.params.snapshot);
      return toTask(await snapshots.revert(vm, found, request.body, caller.name));
    },
    delete: async (request, { caller }) => {
      const vm = vmOf(request);
      const found = snapshots.require(vm, request.params.snapshot);
      return toTask(await snapshots.delete(vm, found, request.query.withChildren, caller.name));
    },
  };
}
