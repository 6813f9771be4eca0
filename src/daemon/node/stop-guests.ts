// Shutting down every guest of the node, for the shutdown of the machine.
import * as z from 'zod';
import { canVm, liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { defineTask, type TaskRecord, type TaskType } from '../task/task.ts';

const longestMs = 3_600_000;

export interface StopGuestsParts {
  engine: () => TaskEngine;
  vms: () => Iterable<Vm>;
  stop: (vm: Vm) => Promise<TaskRecord>;
  /** VMs that have to be down before this one is stopped: those after it in its group. */
  stoppedBefore: (vmId: string) => readonly string[];
  /** Ends what would start guests. */
  cancelStarts: () => Promise<void>;
}

/** One task that shuts down all guests, each by a task of its own: at once, but those of a group in its order. */
export function stopGuestsTask(parts: StopGuestsParts): TaskType<Record<never, never>> {
  return defineTask({
    type: 'node.stopGuests',
    input: z.strictObject({}),
    waitsForTasks: true,
    steps: [
      {
        name: 'shut down guests',
        timeoutMs: longestMs,
        isPivot: true,
        run: async ({ signal, progress, log }) => {
          const engine = parts.engine();
          const isUp = (vm: Vm): boolean => liveVmStates.has(vm.status.state);
          await parts.cancelStarts();
          const waiting = [...parts.vms()].filter(isUp).map((vm) => vm.id);
          const down = new Map(waiting.map((id) => [id, Promise.withResolvers<void>()]));
          let ended = 0;
          const stop = async (id: string): Promise<void> => {
            for (const other of parts.stoppedBefore(id)) await down.get(other)?.promise;
            signal.throwIfAborted();
            // What is being done with it ends first: a start, a suspension, or a stop that somebody else has begun.
            for (const { id: taskId } of engine.activeOn({ kind: 'vm', id }))
              await engine.wait(taskId, { signal, timeoutMs: longestMs });
            const vm = [...parts.vms()].find((candidate) => candidate.id === id);
            if (vm && canVm('stop', vm.status.state)) {
              const task = await engine.wait((await parts.stop(vm)).id, { signal, timeoutMs: longestMs });
              if (task.state !== 'succeeded') log.warn({ vm: vm.name, task: task.id }, 'a guest could not be stopped');
            }
            ended++;
            progress({
              percent: (100 * ended) / waiting.length,
              message: `${ended} of ${waiting.length} guests are down`,
            });
          };
          // Only one task of this type runs at a time, so those it waits for always find a place.
          await Promise.all(
            waiting.map((id) =>
              stop(id)
                .catch((error: unknown) => {
                  signal.throwIfAborted();
                  log.warn({ err: error, vmId: id }, 'a guest could not be stopped');
                })
                .finally(() => down.get(id)?.resolve()),
            ),
          );
        },
      },
    ],
  });
}
