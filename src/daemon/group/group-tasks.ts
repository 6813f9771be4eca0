// Starting, stopping and restarting groups, as tasks: a stage after the other, the members of a stage at once, each member
// an item of the task and started or stopped by a task of its own.
//
//   start:   stage 1 ─▶ each: wait, start, ready ─▶ stage 2 ─▶ …      a member that is not ready: no further stage, or go on
//   stop:    last stage ─▶ each: shut down ─▶ the one before ─▶ …     a member that can't be stopped: no further stage
//   restart: stop, then start
//
// Invariants:
// - What a task does follows from what was written down when it was asked for: members that are changed meanwhile count
//   from the next time on.
// - A member is started by one task at most: after a crash it is found by its parent's id.
// - Nothing is undone: a member that was started runs, whatever becomes of those after it.
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { groupMember, type Group } from '../../api/group.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type EventService } from '../event/event-service.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { ItemBoard, waitForPart } from '../task/task-items.ts';
import { defineTask, type StepContext, type TaskRecord, type TaskType } from '../task/task.ts';
import { stagesOf } from './group-order.ts';
import { waitUntilReady, type ReadinessParts } from './readiness.ts';

/** A member as a task has it: with its VM's id and its place. */
const plannedMember = groupMember.extend({ id: z.string(), order: z.int() });
export type PlannedMember = z.output<typeof plannedMember>;

const input = z.strictObject({
  id: z.string(),
  members: z.array(plannedMember),
  /** Seconds before a member is switched off, whatever it says itself. */
  timeoutS: z.number().optional(),
});
export type GroupTaskInput = z.input<typeof input>;

export interface GroupTasks {
  start: TaskType<GroupTaskInput>;
  stop: TaskType<GroupTaskInput>;
  restart: TaskType<GroupTaskInput>;
}

export interface GroupTaskParts extends Omit<ReadinessParts, 'isComing'> {
  engine: () => TaskEngine;
  events: EventService;
  group: (id: string) => Group | null;
  /** Starts a VM by a task that is a part of another. */
  start: (vm: Vm, parentId: string) => Promise<TaskRecord>;
  stop: (vm: Vm, timeoutS: number | undefined, parentId: string) => Promise<TaskRecord>;
  /** Told when a task has done what it could: what is known of the group is to be looked at again. */
  onDone: (groupId: string) => Promise<void>;
}

type Context = StepContext<z.output<typeof input>, { isStarting: boolean }, unknown>;

/** Every member has its own deadlines; this is for all of them. */
const longestMs = 7 * 86_400_000;
/** How long what is being done with a member may last before it is started or stopped. */
const idleTimeoutMs = 3_600_000;

export function groupTasks(parts: GroupTaskParts): GroupTasks {
  const define = (type: string, name: string, work: (run: GroupRun, context: Context) => Promise<void>) =>
    defineTask({
      type,
      input,
      state: z.object({ isStarting: z.boolean() }),
      waitsForTasks: true,
      steps: [
        {
          name,
          timeoutMs: longestMs,
          isPivot: true,
          run: async (context) => {
            const run = new GroupRun(parts, context);
            try {
              await work(run, context);
            } finally {
              if (context.signal.aborted) run.board.noteAborted();
              else await parts.onDone(context.input.id);
            }
          },
        },
      ],
    });
  return {
    start: define('group.start', 'start members in order', (run) => run.start()),
    stop: define('group.stop', 'stop members in the opposite order', (run) => run.stop()),
    restart: define('group.restart', 'stop members, and start them in order', async (run, { state, remember }) => {
      if (state.isStarting !== true) {
        await run.stop();
        run.beginAgain();
        await remember({ isStarting: true });
      }
      await run.start();
    }),
  };
}

/** One run of a task's step. */
class GroupRun {
  readonly board: ItemBoard;
  readonly #parts: GroupTaskParts;
  readonly #context: Context;
  readonly #stages: PlannedMember[][];

  constructor(parts: GroupTaskParts, context: Context) {
    const { members } = context.input;
    this.#parts = parts;
    this.#context = context;
    this.#stages = stagesOf(members);
    this.board = new ItemBoard(context);
  }

  async start(): Promise<void> {
    for (const stage of this.#stages) {
      await Promise.all(stage.map((member) => this.#each(member, () => this.#bringUp(member))));
      this.#context.signal.throwIfAborted();
      const culprit = stage.find((member) => member.ifNotReady === 'stop' && this.#hasFailed(member));
      if (!culprit) continue;
      this.board.skipPending(`It was not started because VM ${culprit.vm} is not ready.`);
      break;
    }
    const failed = this.#stages.flat().filter((member) => this.#hasFailed(member));
    // Those that run, and were to be gone on without, are told; the group has what it asked for.
    const serious = failed.filter(({ id, ifNotReady }) => ifNotReady === 'stop' || !this.#isRunning(id));
    await this.#tell('start', failed, serious.length > 0);
    this.#throwFirst('started', serious);
  }

  async stop(): Promise<void> {
    for (const stage of this.#stages.toReversed()) {
      await Promise.all(stage.map((member) => this.#each(member, () => this.#bringDown(member))));
      this.#context.signal.throwIfAborted();
      const culprit = stage.find((member) => this.#hasFailed(member));
      if (!culprit) continue;
      this.board.skipPending(`It was left as it is because VM ${culprit.vm} could not be stopped.`);
      break;
    }
    const failed = this.#stages.flat().filter((member) => this.#hasFailed(member));
    await this.#tell('stop', failed, failed.length > 0);
    this.#throwFirst('stopped', failed);
  }

  /** All are down and are to be started. */
  beginAgain(): void {
    for (const { id } of this.#stages.flat()) this.board.set(id, { state: 'pending', taskId: null });
  }

  async #each(member: PlannedMember, work: () => Promise<void>): Promise<void> {
    if (this.board.hasEnded(member.id)) return;
    this.board.set(member.id, { state: 'running' });
    try {
      await work();
    } catch (error) {
      if (this.#context.signal.aborted) return;
      this.board.fail(member.id, error);
    }
  }

  async #bringUp(member: PlannedMember): Promise<void> {
    const { id, vm: name, delayS, ready } = member;
    const { signal, taskId } = this.#context;
    const started = this.#partOf(id, 'vm.start');
    if (!started && this.#require(member).status.state !== 'running' && delayS > 0) {
      this.board.set(id, { message: `It is started in ${delayS} s.` });
      await delay(delayS * 1000, undefined, { signal });
    }
    const part =
      started ??
      (await this.#whenIdle(member, (vm) =>
        vm.status.state === 'running' ? Promise.resolve(null) : this.#parts.start(vm, taskId),
      ));
    const wasRunning = part === null;
    if (part) {
      this.board.set(id, { taskId: part.id, message: 'It is being started.' });
      await waitForPart(this.#parts.engine(), part.id, signal);
    }
    if (ready.type !== 'running') this.board.set(id, { message: 'It runs, and is not ready yet.' });
    const asked = { ...this.#parts, isComing: (vm: Vm) => this.#isComing(vm) };
    await waitUntilReady(asked, { id, name }, ready, { timeoutMs: member.readyTimeoutS * 1000, signal });
    const words = ready.type === 'running' ? 'runs' : 'is ready';
    this.board.set(id, { state: 'done', message: `VM ${name} ${words}${wasRunning ? '; it ran already' : ''}.` });
  }

  async #bringDown(member: PlannedMember): Promise<void> {
    const { id, vm: name } = member;
    const { taskId, input: asked, signal } = this.#context;
    const part =
      this.#partOf(id, 'vm.stop') ??
      (await this.#whenIdle(member, (vm) =>
        liveVmStates.has(vm.status.state)
          ? this.#parts.stop(vm, asked.timeoutS ?? member.stopTimeoutS, taskId)
          : Promise.resolve(null),
      ));
    if (part) {
      this.board.set(id, { taskId: part.id, message: 'It is being stopped.' });
      await waitForPart(this.#parts.engine(), part.id, signal);
    }
    this.board.set(id, { state: 'done', message: `VM ${name} is stopped${part ? '' : '; it was already'}.` });
  }

  /** Begins something with a VM when nothing else is being done with it. */
  async #whenIdle(member: PlannedMember, begin: (vm: Vm) => Promise<TaskRecord | null>): Promise<TaskRecord | null> {
    const engine = this.#parts.engine();
    const { signal } = this.#context;
    const deadline = AbortSignal.timeout(idleTimeoutMs);
    for (;;) {
      const vm = this.#require(member);
      for (const active of engine.activeFor({ kind: 'vm', id: vm.id }, vm.status.taskId)) {
        this.board.set(vm.id, { message: `It waits for what is being done with it: ${active.type}.` });
        await engine.wait(active.id, { signal, timeoutMs: idleTimeoutMs });
      }
      try {
        return await begin(this.#require(member));
      } catch (error) {
        // Somebody was faster.
        if (!(error instanceof LodgeError && error.code === 'busy') || deadline.aborted) throw error;
        await delay(100, undefined, { signal });
      }
    }
  }

  #require({ id, vm: name }: PlannedMember): Vm {
    const vm = this.#parts.vm(id);
    if (vm) return vm;
    throw new LodgeError('not_found', `There is no VM ${name}; it was deleted meanwhile.`);
  }

  #partOf(id: string, type: string): TaskRecord | undefined {
    const parts = this.#parts.engine().partsOf(this.#context.taskId);
    return parts.find((part) => part.target.id === id && part.type === type);
  }

  #hasFailed({ id }: PlannedMember): boolean {
    return this.board.get(id).state === 'failed';
  }

  #isRunning(id: string): boolean {
    return this.#parts.vm(id)?.status.state === 'running';
  }

  #isComing({ id, status }: Vm): boolean {
    return (
      status.restarts.nextAt !== null || this.#parts.engine().activeFor({ kind: 'vm', id }, status.taskId).length > 0
    );
  }

  async #tell(what: 'start' | 'stop', failed: readonly PlannedMember[], isIncomplete: boolean): Promise<void> {
    const group = this.#parts.group(this.#context.input.id);
    if (!group) return;
    const { id, name, project } = group;
    const names = failed.map(({ vm }) => vm).join(', ');
    const done = { start: 'started', stop: 'stopped' }[what];
    const problems = failed.map((member) => this.board.get(member.id).message).join(' ');
    const message = isIncomplete
      ? `Group ${name} was not ${done} as a whole: ${names}. ${problems}`
      : `Group ${name} was ${done}${failed.length === 0 ? '' : `, but not all is ready: ${problems}`}.`;
    await this.#parts.events.record({
      type: isIncomplete ? `group.${what}-incomplete` : `group.${done}`,
      severity: failed.length > 0 ? 'warning' : 'info',
      subject: { kind: 'group', id, name, project },
      message: message.replace(/\.\.$/, '.'),
    });
  }

  #throwFirst(done: string, failed: readonly PlannedMember[]): void {
    const [first] = failed;
    if (!first) return;
    const item = this.board.get(first.id);
    const others = failed.length > 1 ? ` (${failed.length - 1} more: see the task’s items)` : '';
    throw new LodgeError(
      item.error?.code ?? 'internal',
      `${this.#context.target.name} was not ${done} as a whole: ${item.message}${others}`,
      { hint: item.error?.hint },
    );
  }
}
