// A sealed version of a template, as a task that has others done:
//
//   linked clone of the VM, its cables pulled out ─▶ started ─▶ seals itself ─▶ shut down ─▶ version of its disks ─▶ deleted
//
// The VM itself is only looked at: it may run and goes on, and keeps what the copy takes out of itself. When a step fails,
// the copy goes, and nothing was made.
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { finalTaskStates } from '../../api/task.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { defineTask, type TaskRecord, type TaskStep, type TaskType } from '../task/task.ts';
import { type CloneInput } from '../vm/vm-clone-tasks.ts';
import { type VmGuests } from '../vm/vm-guests.ts';
import { type VmRecords } from '../vm/vm-records.ts';
import { type VmService } from '../vm/vm-service.ts';
import { sealGuest, sealTimeoutMs } from './seal-guest.ts';
import { type TemplateService } from './template-service.ts';

const input = z.strictObject({
  project: z.string(),
  /** The VM that the version is of. */
  vm: z.strictObject({ id: z.string(), name: z.string() }),
  snapshot: z.string().nullable(),
  /** What VMs of the version are to ask for. */
  spec: vmSpec,
  /** Name of the copy that is sealed. */
  copy: z.string(),
  /** The template that it is a version of: a new one, or one that is there. */
  template: z.union([
    z.strictObject({ name: z.string(), labels: z.record(z.string(), z.string()), description: z.string() }),
    z.strictObject({ id: z.string() }),
  ]),
  /** Whether VMs of the version run cloud-init at their first boot. */
  hasFirstBoot: z.boolean(),
  requestedBy: z.string(),
});
export type SealInput = z.output<typeof input>;
type SealStep = TaskStep<SealInput, { sealed: string[] }, unknown>;

export interface SealTaskParts {
  engine: () => TaskEngine;
  records: VmRecords;
  guests: VmGuests;
  /** Begin to make the copy, and the version of it. */
  templates: () => Pick<TemplateService, 'copyToSeal' | 'keepSealed'>;
  vms: () => Pick<VmService, 'start' | 'stop' | 'delete'>;
}

const cloneTimeoutMs = 600_000;
const bootTimeoutMs = 900_000;
const stopTimeoutMs = 600_000;
const hostTimeoutMs = 120_000;
/** A guest that is given an identity as a clone is left to it for so long. */
const identityTimeoutMs = 120_000;
const lookAgainMs = 200;

export function sealTask(parts: SealTaskParts): TaskType<z.input<typeof input>> {
  return defineTask({
    type: 'template.seal',
    input,
    state: z.object({ sealed: z.array(z.string()) }),
    exclusiveKey: ({ project, copy }) => `template-seal/${project}/${copy}`,
    waitsForTasks: true,
    steps: [makeCopy(parts), startCopy(parts), seal(parts), stopCopy(parts), keepVersion(parts), removeCopy(parts)],
  });
}

function copyOf({ records }: SealTaskParts, { project, copy }: SealInput): Vm | null {
  return records.collection.byName(project, copy);
}

function requireCopy(parts: SealTaskParts, given: SealInput): Vm {
  const vm = copyOf(parts, given);
  if (vm) return vm;
  throw new LodgeError('not_found', `VM ${given.copy}, which was to be sealed, was deleted meanwhile.`);
}

/** The task that makes the copy, while it goes on. */
function cloningOf(parts: SealTaskParts, { copy, project }: SealInput): TaskRecord | undefined {
  return Array.from(parts.engine().all()).find(({ type, state, input: given }) => {
    if (type !== 'vm.clone' || finalTaskStates.has(state)) return false;
    const { copies, project: own } = given as CloneInput;
    return own === project && copies.some(({ name }) => name === copy);
  });
}

function ignoreEnded(error: unknown): void {
  if (!(error instanceof LodgeError && error.code === 'wrong_state')) throw error;
}

/** Waits for a task, and fails as it did. */
async function success(
  parts: SealTaskParts,
  task: TaskRecord,
  options: { signal: AbortSignal; timeoutMs: number },
): Promise<void> {
  const { state, error, type } = await parts.engine().wait(task.id, options);
  if (state === 'succeeded') return;
  if (error) throw LodgeError.fromBody({ error });
  throw new LodgeError('cancelled', `Task ${task.id} (${type}) ended as ${state}.`);
}

/** Tasks that an earlier run of a step has begun on the copy. */
async function settled(
  parts: SealTaskParts,
  { id, status }: Vm,
  options: { signal: AbortSignal; timeoutMs: number },
): Promise<void> {
  for (const task of parts.engine().activeFor({ kind: 'vm', id }, status.taskId))
    await parts.engine().wait(task.id, options);
}

function makeCopy(parts: SealTaskParts): SealStep {
  return {
    name: 'clone the VM',
    timeoutMs: cloneTimeoutMs,
    run: async ({ input: given, signal }) => {
      const options = { signal, timeoutMs: cloneTimeoutMs };
      const begun = cloningOf(parts, given);
      if (begun) await parts.engine().wait(begun.id, options);
      if (!copyOf(parts, given)) await success(parts, await parts.templates().copyToSeal(given), options);
    },
    undo: ({ input: given, signal }) => remove(parts, given, signal),
  };
}

function startCopy(parts: SealTaskParts): SealStep {
  return {
    name: 'start the copy',
    weight: 3,
    timeoutMs: bootTimeoutMs,
    run: async ({ input: given, signal, progress }) => {
      const options = { signal, timeoutMs: bootTimeoutMs };
      await settled(parts, requireCopy(parts, given), options);
      const copy = requireCopy(parts, given);
      if (!liveVmStates.has(copy.status.state))
        await success(parts, await parts.vms().start(copy, given.requestedBy), options);
      progress({ percent: 20, message: 'waiting for the guest agent' });
      await untilAnswering(parts, given, signal);
    },
  };
}

/** Ends when the agent of the copy answers, and what a clone is given as an identity has been given. */
async function untilAnswering(parts: SealTaskParts, given: SealInput, signal: AbortSignal): Promise<void> {
  for (let answeredAt: number | null = null; ;) {
    const copy = requireCopy(parts, given);
    const { state, reason, lineage } = copy.status;
    if (state !== 'running')
      throw new LodgeError('agent_unavailable', `The copy that was to be sealed is ${state}: ${reason}`);
    const guest = parts.guests.get(copy.id);
    if (answeredAt === null && (await guest?.agent.isAnswering({ timeoutMs: 2000, signal }))) answeredAt = Date.now();
    // What comes by cloud-init the sealing waits for itself; the rest should not come after it.
    const isSettled = given.hasFirstBoot || lineage?.hasOwnIdentity !== false;
    if (answeredAt !== null && (isSettled || Date.now() - answeredAt > identityTimeoutMs)) return;
    await delay(lookAgainMs, undefined, { signal });
  }
}

function seal(parts: SealTaskParts): SealStep {
  return {
    name: 'seal the copy',
    weight: 2,
    timeoutMs: sealTimeoutMs,
    run: async ({ input: given, signal, remember }) => {
      const copy = requireCopy(parts, given);
      const { hasFirstBoot } = given;
      await remember({ sealed: await sealGuest(parts.guests.require(copy), { hasFirstBoot, signal }) });
    },
  };
}

function stopCopy(parts: SealTaskParts): SealStep {
  return {
    name: 'shut the copy down',
    timeoutMs: stopTimeoutMs,
    run: async ({ input: given, signal }) => {
      const options = { signal, timeoutMs: stopTimeoutMs };
      await settled(parts, requireCopy(parts, given), options);
      const copy = requireCopy(parts, given);
      if (copy.status.state !== 'stopped')
        await success(parts, await parts.vms().stop(copy, undefined, given.requestedBy), options);
    },
  };
}

function keepVersion(parts: SealTaskParts): SealStep {
  return {
    name: 'make the version',
    timeoutMs: cloneTimeoutMs,
    isPivot: true,
    run: async ({ input: given, state, signal }) => {
      const copy = requireCopy(parts, given);
      // The copy is this task's alone, so a task that makes a version of it is the one that an earlier run has begun.
      const begun = Array.from(parts.engine().all()).find(
        ({ type, input: of }) => type === 'template.addVersion' && (of as { vm: { id: string } }).vm.id === copy.id,
      );
      const task = begun ?? (await parts.templates().keepSealed(given, copy, state.sealed ?? []));
      await success(parts, task, { signal, timeoutMs: cloneTimeoutMs });
    },
  };
}

function removeCopy(parts: SealTaskParts): SealStep {
  return {
    name: 'delete the copy',
    timeoutMs: hostTimeoutMs,
    run: ({ input: given, signal }) => remove(parts, given, signal),
  };
}

async function remove(parts: SealTaskParts, given: SealInput, signal: AbortSignal): Promise<void> {
  const options = { signal, timeoutMs: hostTimeoutMs };
  // One that is still being made is not there yet, or can't be deleted: that is undone, or done, first.
  const begun = cloningOf(parts, given);
  if (begun) {
    await parts.engine().cancel(begun.id).catch(ignoreEnded);
    await parts.engine().wait(begun.id, options);
  }
  const copy = copyOf(parts, given);
  if (copy) await success(parts, await parts.vms().delete(copy, true, given.requestedBy), options);
}
