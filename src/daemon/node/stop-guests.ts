// Shutting down every guest of the node, for the shutdown of the machine.
import * as z from 'zod';
import { finalTaskStates } from '../../api/task.ts';
import { canVm } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { defineTask, type TaskRecord, type TaskType } from '../task/task.ts';

const longestMs = 3_600_000;

export interface StopGuestsParts {
  engine: () => TaskEngine;
  vms: () => Iterable<Vm>;
  stop: (vm: Vm) => Promise<TaskRecord>;
}

/** One task that shuts down all guests at once, each by a task of its own. */
export function stopGuestsTask(parts: StopGuestsParts): TaskType<Record<never, never>> {
  return defineTask({
    type: 'node.stopGuests',
    input: z.strictObject({}),
    steps: [
      {
        name: 'shut down guests',
        timeoutMs: longestMs,
        run: async ({ signal, progress, log }) => {
          const engine = parts.engine();
          const started: string[] = [];
          for (const vm of [...parts.vms()]) {
            const [active] = engine.activeOn({ kind: 'vm', id: vm.id });
            if (active?.type === 'vm.stop') started.push(active.id);
            else if (canVm('stop', vm.status.state)) {
              await parts.stop(vm).then(
                (task) => started.push(task.id),
                (error: unknown) => log.warn({ err: error, vm: vm.name }, 'a guest could not be asked to stop'),
              );
            }
          }
          // Only one task of this type runs at a time, so those it waits for always find a place.
          let ended = 0;
          await Promise.all(
            started.map(async (id) => {
              await engine.wait(id, { signal, timeoutMs: longestMs });
              ended++;
              progress({
                percent: (100 * ended) / started.length,
                message: `${ended} of ${started.length} guests are down`,
              });
            }),
          );
          const failed = started.filter((id) => {
            const state = engine.get(id)?.state;
            return state !== undefined && finalTaskStates.has(state) && state !== 'succeeded';
          });
          if (failed.length > 0) log.warn({ failed }, 'some guests could not be stopped');
        },
      },
    ],
  });
}
