// Waits until a VM is as somebody wants it: created, running, up (as the guest itself says), or answering ssh. Driven by
// the stream of changes; gives up at once when the VM goes where the goal can't be reached any more.
import { connect } from 'node:net';
import type { Vm } from '../../api/vm.ts';
import { LodgeError } from '../../api/errors.ts';
import { followChanges } from '../../client/follow.ts';
import { formatDuration } from '../../lib/duration.ts';
import { lastLine } from '../../lib/printable.ts';
import type { Session } from '../connect/session.ts';
import { addressesOf, isLinkLocal } from './view.ts';

export const vmGoals = ['created', 'running', 'up', 'ssh', 'stopped'] as const;
export type VmGoal = (typeof vmGoals)[number];

/** How often the console is looked at. */
const consoleLookMs = 4000;
const maxConsoleLine = 120;

/** What stands in the way of a goal, for people; null when it is reached. Throws when it can't be reached any more. */
export function missingFor(vm: Vm, goal: VmGoal): string | null {
  const { state, isUp, lastExit } = vm.status;
  switch (goal) {
    case 'created':
      return state === 'creating' ? 'being created' : null;
    case 'stopped':
      return state === 'stopped' ? null : `still ${state}`;
    case 'running':
      if (state === 'running') return null;
      break;
    case 'up':
      if (state === 'running' && isUp) return null;
      break;
    case 'ssh':
      if (state === 'running') {
        const reachable = addressesOf(vm).filter((address) => !isLinkLocal(address));
        return reachable.length === 0 ? 'the guest has no address yet' : `ssh at ${reachable.join(', ')}`;
      }
      break;
  }
  if (state === 'stopped' || state === 'crashed' || state === 'suspended' || state === 'deleting') {
    throw new LodgeError(
      'wrong_state',
      `VM ${vm.name} is ${state}, so it will not be ${goalText(goal)}: ${lastExit?.message ?? vm.status.reason}`,
      {
        hint: `See lodge vm show ${vm.name}, lodge vm log ${vm.name} and lodge vm serial-log ${vm.name}.`,
      },
    );
  }
  return state === 'running' ? 'the guest is booting' : state;
}

export function goalText(goal: VmGoal): string {
  return goal === 'ssh' ? 'reachable by ssh' : goal;
}

export interface WaitForVmOptions {
  signal: AbortSignal;
  timeoutMs: number;
  /** Told what is missing, whenever it changes. */
  onMissing?: (text: string) => void;
}

/** Waits for a goal and gives the VM as it is then. */
export async function waitForVm(session: Session, name: string, goal: VmGoal, options: WaitForVmOptions): Promise<Vm> {
  const stop = new AbortController();
  const deadline = setTimeout(() => stop.abort(), options.timeoutMs);
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const read = (): Promise<Vm> =>
    session.client.vm.get({ params: { vm: name }, query: { project: session.project } }, { signal });
  const news = new News();
  const needsGuest = goal === 'up' || goal === 'ssh';
  let missing = '';
  let last: { vm: Vm; missed: string } | null = null;
  let consoleLine: string | null = null;
  let lookedAt = performance.now();
  try {
    let vm = await read();
    void watch(session, vm.id, signal, news);
    for (;;) {
      const missed = missingFor(vm, goal);
      if (missed === null) return vm;
      last = { vm, missed };
      const now = `${missed}${consoleText(vm, consoleLine)}`;
      if (now !== missing) options.onMissing?.(now);
      missing = now;
      if (goal === 'ssh' && (await answersSsh(vm, signal))) return vm;
      if (needsGuest && performance.now() - lookedAt > consoleLookMs) {
        lookedAt = performance.now();
        consoleLine = await lastConsoleLine(session, name, signal);
      }
      // Changes wake us at once; the timer is for what no change tells, such as a port that opens.
      await news.orAfter(goal === 'ssh' ? 500 : 5000, signal);
      vm = await read();
    }
  } catch (failure) {
    options.signal.throwIfAborted();
    if (!stop.signal.aborted) throw failure;
    if (last !== null && needsGuest) {
      consoleLine = await lastConsoleLine(session, name, AbortSignal.timeout(consoleLookMs));
      missing = `${last.missed}${consoleText(last.vm, consoleLine)}`;
    }
    throw new LodgeError(
      'timeout',
      `VM ${name} is not ${goalText(goal)} after ${formatDuration(options.timeoutMs)}: ${missing}`,
      {
        hint: `It goes on without us. Look at it: lodge vm console ${name}, lodge vm serial-log ${name}.`,
      },
    );
  } finally {
    clearTimeout(deadline);
    stop.abort();
  }
}

/** What the console shows, for somebody who waits for the guest. */
export function consoleText(vm: Vm, line: string | null): string {
  if (vm.status.consolePanic) return `; the console says: ${vm.status.consolePanic}`;
  return line === null || vm.status.state !== 'running' ? '' : `; last console line: ${line}`;
}

/** Null: it shows nothing, or is not to be seen by this caller. */
async function lastConsoleLine(session: Session, name: string, signal: AbortSignal): Promise<string | null> {
  try {
    const log = await session.client.vm.serialLog(
      { params: { vm: name }, query: { project: session.project, bytes: 2000 } },
      { signal },
    );
    return lastLine(await log.text())?.slice(0, maxConsoleLine) ?? null;
  } catch {
    return null;
  }
}

/** Wakes whoever waits when something has changed. */
class News {
  #wake: (() => void) | null = null;
  #isFresh = false;

  tell(): void {
    this.#isFresh = true;
    this.#wake?.();
  }

  async orAfter(delayMs: number, signal: AbortSignal): Promise<void> {
    if (!this.#isFresh && !signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, delayMs);
      signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
      clearTimeout(timer);
      this.#wake = null;
    }
    this.#isFresh = false;
  }
}

async function watch(session: Session, id: string, signal: AbortSignal, news: News): Promise<void> {
  try {
    for await (const change of followChanges(session.client, { kinds: ['vm'], signal, reconnectMs: Infinity })) {
      // synced: from here on nothing is missed, so what happened before is read once more.
      if (change.type === 'synced' || change.id === id) news.tell();
    }
  } catch {
    // Without the stream (too many are open, or not allowed) the timer alone drives the wait.
  }
}

async function answersSsh(vm: Vm, signal: AbortSignal): Promise<boolean> {
  const addresses = addressesOf(vm).filter((address) => !isLinkLocal(address));
  const answers = await Promise.all(addresses.map((address) => hasSshBanner(address, 22, 2000, signal)));
  return answers.includes(true);
}

/** Whether an SSH server greets there (RFC 4253, 4.2: it sends "SSH-2.0-…" first). */
export function hasSshBanner(host: string, port: number, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ host, port, timeout: timeoutMs, ...(signal ? { signal } : {}) });
  let greeting = '';
  const end = (answer: boolean): void => {
    resolve(answer);
    socket.destroy();
  };
  socket.setEncoding('latin1');
  socket.on('data', (chunk) => {
    greeting += String(chunk);
    // Lines may come before the greeting itself.
    if (/(^|\n)SSH-/.test(greeting)) end(true);
    else if (greeting.length > 4096) end(false);
  });
  socket.once('timeout', () => end(false));
  socket.once('error', () => end(false));
  socket.once('close', () => end(false));
  return promise;
}
