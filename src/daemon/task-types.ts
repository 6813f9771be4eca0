// Every kind of long operation of the daemon. What isn't in this list is not run; what is, is held to the promises of
// tasks by test/integration/tasks.test.ts.
import { type GroupTasks } from './group/group-tasks.ts';
import { type ImageTasks } from './image/image-tasks.ts';
import { type NodeTasks } from './node/node-tasks.ts';
import { listSnapshotTasks, type SnapshotTasks } from './snapshot/snapshot-tasks.ts';
import { type TaskType } from './task/task.ts';
import { type Templates } from './template/open-templates.ts';
import { type VmActionInput } from './vm/vm-action-task.ts';
import { type CloneInput } from './vm/vm-clone-tasks.ts';
import { type ForkInput } from './vm/vm-fork-tasks.ts';
import { listVmTasks, type VmTasks } from './vm/vm-tasks.ts';
import { type VolumeTasks } from './volume/volume-tasks.ts';

export interface TaskTypeParts {
  vm: VmTasks;
  image: ImageTasks;
  volume: VolumeTasks;
  clone: TaskType<CloneInput>;
  template: Templates['tasks'];
  fork: TaskType<ForkInput>;
  snapshot: SnapshotTasks;
  act: TaskType<VmActionInput>;
  group: GroupTasks;
  node: NodeTasks;
}

export function listTaskTypes({
  vm,
  clone,
  fork,
  image,
  volume,
  snapshot,
  act,
  group,
  template,
  node,
}: TaskTypeParts): TaskType[] {
  return [
    ...listVmTasks(vm),
    clone,
    template.addVersion,
    template.delete,
    template.seal,
    template.prepare,
    template.createWarm,
    fork,
    image.create,
    image.importUpload,
    image.delete,
    volume.create,
    volume.delete,
    ...listSnapshotTasks(snapshot),
    act,
    group.start,
    group.stop,
    group.restart,
    node.stopGuests,
    node.measure,
  ];
}
