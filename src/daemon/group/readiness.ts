// Whether a member of a group is ready, and waiting for it. Asked of the guest's agent, or of the guest's own network.
// Nothing that a guest says or doesn't say makes it wait longer than its deadline, or keep more than a few kilobytes.
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { type GroupReadiness } from '../../api/group.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { listensOn, socketTables } from './listening-ports.ts';

export interface ReadinessParts {
  vm: (id: string) => Vm | null;
  guest: (id: string) => Guest | null;
  /** Addresses of a VM that this host reaches on the VM's own networks. */
  addresses: (vm: Vm) => string[];
  /** Whether a stopped VM is about to be up again: by a task, or its restart policy. */
  isComing: (vm: Vm) => boolean;
}

const firstPauseMs = 200;
const longestPauseMs = 2000;
const agentTimeoutMs = 3000;
const connectTimeoutMs = 1000;
/** A command that hangs is ended by the agent, and tried again. */
const commandTimeoutMs = 30_000;
/** The tables of sockets of a guest with thousands of connections are longer; a listener stands at the beginning. */
const maxTableBytes = 262_144;

/** What is not so yet, in words; empty when it is ready. */
type Missing = string;

/** Waits until a member is ready. Throws timeout with what was missing, or wrong_state when it ended meanwhile. */
export async function waitUntilReady(
  parts: ReadinessParts,
  { id, name }: { id: string; name: string },
  ready: GroupReadiness,
  options: { timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  const { timeoutMs, signal } = options;
  const deadline = performance.now() + timeoutMs;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 1.5, longestPauseMs)) {
    signal.throwIfAborted();
    const vm = parts.vm(id);
    if (!vm) throw new LodgeError('not_found', `VM ${name} was deleted before it was ready.`);
    if (!liveVmStates.has(vm.status.state) && !parts.isComing(vm))
      throw new LodgeError('wrong_state', `VM ${name} is ${vm.status.state}: it ended before it was ready.`);
    const leftMs = deadline - performance.now();
    const missing = await missingOf(parts, vm, ready, { signal, timeoutMs: Math.max(leftMs, agentTimeoutMs) });
    if (missing === '') return;
    if (leftMs <= 0) {
      const seconds = Math.round(timeoutMs / 1000);
      throw new LodgeError('timeout', `VM ${name} was not ready within ${seconds} s: ${missing}.`, {
        hint: `See why (lodge vm show ${name}, lodge vm log ${name}), or give it more time: readyTimeoutS of the member.`,
      });
    }
    await delay(Math.min(pauseMs, leftMs), undefined, { signal });
  }
}

async function missingOf(
  parts: ReadinessParts,
  vm: Vm,
  ready: GroupReadiness,
  options: { signal: AbortSignal; timeoutMs: number },
): Promise<Missing> {
  if (vm.status.state !== 'running') return `it is ${vm.status.state}`;
  const guest = parts.guest(vm.id);
  if (ready.type === 'running') return '';
  if (!guest) return 'its hypervisor process does not answer';
  const { signal } = options;
  try {
    if (ready.type === 'agent')
      return (await guest.agent.isAnswering({ timeoutMs: agentTimeoutMs, signal })) ? '' : 'its agent does not answer';
    if (ready.type === 'port') return await missingOfPort(parts, vm, guest, ready.port, signal);
    return await missingOfCommand(guest, ready.command, Math.min(options.timeoutMs, commandTimeoutMs), signal);
  } catch (error) {
    signal.throwIfAborted();
    return error instanceof LodgeError ? error.message.replace(/\.$/, '') : 'its agent can not be asked';
  }
}

async function missingOfPort(
  parts: ReadinessParts,
  vm: Vm,
  guest: Guest,
  port: number,
  signal: AbortSignal,
): Promise<Missing> {
  const reached = await Promise.all(parts.addresses(vm).map((address) => accepts(address, port, signal)));
  if (reached.includes(true)) return '';
  const missing = `nothing listens on port ${port}`;
  let asked: unknown = null;
  for (const path of socketTables) {
    try {
      if (listensOn(await readText(guest, path, signal), port)) return '';
    } catch (error) {
      signal.throwIfAborted();
      asked = error;
    }
  }
  const isReachable = reached.length > 0 || asked === null;
  return isReachable
    ? missing
    : `${missing} that this host can see: ${asked instanceof LodgeError ? asked.message.replace(/\.$/, '') : 'its agent can not be asked'}`;
}

async function missingOfCommand(
  guest: Guest,
  command: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Missing> {
  const request = { command: [...command], environment: [], input: null, timeoutMs };
  for await (const event of guest.agent.exec(request, { signal })) {
    if (event.type !== 'exit') continue;
    if (event.code === 0) return '';
    return `${command[0]} ended with ${event.code === null ? `signal ${event.signal}` : event.code}`;
  }
  return `${command[0]} did not end`;
}

async function readText(guest: Guest, path: string, signal: AbortSignal): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of guest.agent.readFile(path, { signal, timeoutMs: agentTimeoutMs })) {
    chunks.push(chunk);
    length += chunk.length;
    if (length >= maxTableBytes) break;
  }
  return Buffer.concat(chunks).toString('latin1');
}

/** Whether a TCP connection is accepted. */
function accepts(host: string, port: number, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: connectTimeoutMs, signal });
    const end = (isOpen: boolean): void => {
      socket.destroy();
      resolve(isOpen);
    };
    socket.once('connect', () => end(true));
    socket.once('timeout', () => end(false));
    socket.once('error', () => end(false));
  });
}
