// The long operations on volumes.
import * as z from 'zod';
import { defineTask, type TaskType } from '../task/task.ts';
import { type VolumeService } from './volume-service.ts';

export interface VolumeTasks {
  create: TaskType<{ id: string }>;
  delete: TaskType<{ id: string }>;
}

const input = z.strictObject({ id: z.string() });

/** `volumes` is asked for when a step runs, since service and tasks need each other. */
export function volumeTasks(volumes: () => VolumeService): VolumeTasks {
  return {
    create: defineTask({
      type: 'volume.create',
      input,
      steps: [
        {
          name: 'make the file',
          timeoutMs: 300_000,
          run: async ({ input: { id } }) => void (await volumes().make(id)),
          undo: ({ input: { id } }) => volumes().remove(id),
        },
      ],
    }),
    delete: defineTask({
      type: 'volume.delete',
      input,
      steps: [
        {
          name: 'delete the file',
          timeoutMs: 120_000,
          isPivot: true,
          run: ({ input: { id } }) => volumes().remove(id),
        },
      ],
    }),
  };
}
