// The long operations on VMs, put together from steps.
import * as z from 'zod';
import { defineTask, type TaskType } from '../task/task.ts';
import {
  deleteEverything,
  markDefined,
  provideDisks,
  settleIdentity,
  updateHardware,
  writeFirstBootData,
} from './vm-make-steps.ts';
import { askToShutDown, endGuest, startGuest, suspendGuest } from './vm-power-steps.ts';
import { changeDevices, finishChange, provideAddedDisks } from './vm-change-steps.ts';
import { type VmStepParts } from './vm-step.ts';

const input = z.strictObject({
  id: z.string(),
  timeoutS: z.number().optional(),
  isForced: z.boolean().optional(),
  bootOnce: z.string().optional(),
});
type Input = z.input<typeof input>;

export interface VmTasks {
  create: TaskType<Input>;
  createAndStart: TaskType<Input>;
  start: TaskType<Input>;
  stop: TaskType<Input>;
  forceOff: TaskType<Input>;
  restart: TaskType<Input>;
  suspend: TaskType<Input>;
  change: TaskType<Input>;
  delete: TaskType<Input>;
  forceDelete: TaskType<Input>;
}

export function vmTasks(parts: VmStepParts): VmTasks {
  const making = [settleIdentity(parts), provideDisks(parts), writeFirstBootData(parts), markDefined(parts)];
  const stopping = [askToShutDown(parts), endGuest(parts, 'stopped')];
  return {
    create: defineTask({ type: 'vm.create', input, steps: making }),
    createAndStart: defineTask({ type: 'vm.createAndStart', input, steps: [...making, startGuest(parts)] }),
    start: defineTask({ type: 'vm.start', input, steps: [updateHardware(parts), startGuest(parts)] }),
    stop: defineTask({ type: 'vm.stop', input, steps: stopping }),
    forceOff: defineTask({ type: 'vm.forceOff', input, steps: [endGuest(parts, 'forced-off')] }),
    // Once its guest has ended, a restart can only go on: what fails then is tried again.
    restart: defineTask({ type: 'vm.restart', input, steps: [...stopping, updateHardware(parts), startGuest(parts)] }),
    suspend: defineTask({ type: 'vm.suspend', input, steps: [suspendGuest(parts)] }),
    change: defineTask({
      type: 'vm.change',
      input,
      steps: [provideAddedDisks(parts), changeDevices(parts), finishChange(parts)],
    }),
    delete: defineTask({ type: 'vm.delete', input, steps: [deleteEverything(parts)] }),
    forceDelete: defineTask({ type: 'vm.forceDelete', input, steps: [deleteEverything(parts)] }),
  };
}

/** All of them, for the engine. */
export function listVmTasks(tasks: VmTasks): TaskType<Input>[] {
  return Object.values(tasks) as TaskType<Input>[];
}
