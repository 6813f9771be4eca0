// Every kind of long operation of the daemon. What isn't in this list is not run; what is, is held to the promises of
// tasks by test/integration/tasks.test.ts.
import { type ImageTasks } from './image/image-tasks.ts';
import { type TaskType } from './task/task.ts';
import { listVmTasks, type VmTasks } from './vm/vm-tasks.ts';
import { type VolumeTasks } from './volume/volume-tasks.ts';

export interface TaskTypeParts {
  vm: VmTasks;
  image: ImageTasks;
  volume: VolumeTasks;
  stopGuests: TaskType<Record<never, never>>;
}

export function listTaskTypes({ vm, image, volume, stopGuests }: TaskTypeParts): TaskType[] {
  return [...listVmTasks(vm), image.create, image.importUpload, image.delete, volume.create, volume.delete, stopGuests];
}
