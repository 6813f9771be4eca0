// The agent of a QEMU guest as the daemon sees it: what src/drivers/driver.ts asks for, and a little more that the
// driver itself uses. Its errors are the contract's.
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../../api/errors.ts';
import type { ExecOutput } from '../../../api/vm-guest.ts';
import type { GuestGlance, GuestMetrics, GuestReport } from '../../../api/vm-guest-info.ts';
import type { CallOptions, GuestAgent, GuestExecRequest } from '../../driver.ts';
import type { AgentChannelOptions } from './channel.ts';
import { AgentClient } from './client.ts';
import { AgentError } from './errors.ts';
import { execInGuest } from './exec.ts';
import { readGuestFile, writeGuestFile } from './files.ts';
import { Questions } from './questions.ts';
import { readGuestMetrics, type ReadMemory } from './guest-metrics.ts';
import { glanceAt, mountPointsOf, readGuestReport, type FindDisks } from './guest-report.ts';

const PING_TIMEOUT_MS = 3000;
const INFO_TIMEOUT_MS = 10_000;
/** Freezing writes out everything the guest holds in memory. */
const FREEZE_TIMEOUT_MS = 60_000;
/** How long an agent has to refuse a shutdown; it answers nothing when it obeys. */
const SHUTDOWN_SILENCE_MS = 1000;
/** How long a guest may take to see vCPUs that were added. */
const ONLINE_TIMEOUT_MS = 5000;

export class QemuGuestAgent implements GuestAgent {
  readonly #client: AgentClient;
  /** Where the VM's disks are; what the guest tells of disks is matched with it. */
  findDisks: FindDisks = () => Promise.resolve([]);
  /** What the balloon's driver in the guest tells. */
  readMemory: ReadMemory = () => Promise.resolve(null);

  /** `path` is the unix socket of the virtio-serial port `org.qemu.guest_agent.0`. Connects at the first call. */
  constructor(path: string, options: AgentChannelOptions = {}) {
    this.#client = new AgentClient(path, options);
  }

  /**
   * What QEMU says of the guest's end of the port: `open` of VSERPORT_CHANGE, `frontend-open` of query-chardev. False
   * makes calls fail at once instead of after a deadline. Null: not known.
   */
  notePort(isOpen: boolean | null): void {
    this.#client.notePort(isOpen);
  }

  async isAnswering(options: CallOptions = {}): Promise<boolean> {
    const { signal, timeoutMs = PING_TIMEOUT_MS } = options;
    try {
      await this.#client.call('guest-ping', undefined, { signal, timeoutMs, isSyncEnough: true });
      return true;
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      if (error.reason === 'cancelled') throw toLodgeError(error);
      // An agent that refuses a ping is odd, but it answers.
      return error.reason === 'refused' || error.reason === 'disabled' || error.reason === 'missing';
    }
  }

  info(options: CallOptions = {}): Promise<GuestReport> {
    const { signal, timeoutMs = INFO_TIMEOUT_MS } = options;
    return translated(() => readGuestReport(this.#client, this.findDisks, { signal, timeoutMs }));
  }

  glance(options: CallOptions = {}): Promise<GuestGlance> {
    const { signal, timeoutMs = INFO_TIMEOUT_MS } = options;
    return translated(() => glanceAt(new Questions(this.#client, { signal, timeoutMs })));
  }

  metrics(options: CallOptions = {}): Promise<GuestMetrics> {
    const { signal, timeoutMs = INFO_TIMEOUT_MS } = options;
    return translated(() => readGuestMetrics(this.#client, this.readMemory, { signal, timeoutMs }));
  }

  async *exec(request: GuestExecRequest, options: CallOptions = {}): AsyncGenerator<ExecOutput, void, void> {
    const { command, environment, input } = request;
    const timeoutMs = Math.min(request.timeoutMs, options.timeoutMs ?? Infinity);
    const program = execInGuest(this.#client, { command, environment, input, timeoutMs, signal: options.signal });
    try {
      for await (const event of program) {
        if (event.type === 'started') yield event;
        else if (event.type === 'exit') yield { type: 'exit', code: event.code, signal: event.signal };
        else yield { type: event.type, data: event.data.toString('base64') };
      }
    } catch (error) {
      throw toLodgeError(error);
    }
  }

  async *readFile(path: string, options: CallOptions = {}): AsyncGenerator<Buffer, void, void> {
    try {
      yield* readGuestFile(this.#client, path, options);
    } catch (error) {
      throw toLodgeError(error);
    }
  }

  async writeFile(path: string, content: AsyncIterable<Uint8Array>, options: CallOptions = {}): Promise<void> {
    await translated(() => writeGuestFile(this.#client, path, content, options));
  }

  freeze(options: CallOptions = {}): Promise<number> {
    const { signal, timeoutMs = FREEZE_TIMEOUT_MS } = options;
    return translated(async () => {
      try {
        return await this.#client.call('guest-fsfreeze-freeze', undefined, { signal, timeoutMs });
      } catch (error) {
        // Given up is not undone: the guest may be frozen, or become so, and nobody would know.
        const isUncertain = error instanceof AgentError && ['timeout', 'cancelled', 'protocol'].includes(error.reason);
        if (isUncertain) await this.#client.call('guest-fsfreeze-thaw', undefined).catch(() => {});
        throw error;
      }
    });
  }

  thaw(options: CallOptions = {}): Promise<number> {
    const { signal, timeoutMs = FREEZE_TIMEOUT_MS } = options;
    return translated(() => this.#client.call('guest-fsfreeze-thaw', undefined, { signal, timeoutMs }));
  }

  /** Whether file systems are frozen. */
  isFrozen(options: CallOptions = {}): Promise<boolean> {
    return translated(async () => (await this.#client.call('guest-fsfreeze-status', undefined, options)) === 'frozen');
  }

  /** Sets the guest's clock, in milliseconds since 1970; after a guest was restored, it shows the time of its saving. */
  async setTime(timeMs: number, options: CallOptions = {}): Promise<void> {
    // Nanoseconds exceed 2^53; the number rounds to 256 ns, far below what the way to the guest takes.
    await translated(() => this.#client.call('guest-set-time', { time: Math.round(timeMs * 1e6) }, options)).catch(
      (error: unknown) => {
        // The agent sets the system's clock first, then asks hwclock(8) to write it to the machine's. Debian 13 has that
        // program in a package of its own; what programs go by is set all the same.
        const { cause } = error as Error;
        if (
          !(cause instanceof AgentError && cause.reason === 'refused' && /hwclock|hardware clock/.test(cause.message))
        )
          throw error;
      },
    );
  }

  /** Asks the guest to power off or reboot. Resolves when the agent has not refused. */
  async shutdown(mode: 'powerdown' | 'reboot', options: CallOptions = {}): Promise<void> {
    await translated(() =>
      this.#client.call('guest-shutdown', { mode }, { ...options, silenceMs: SHUTDOWN_SILENCE_MS }),
    );
  }

  /**
   * Switches on the vCPUs that the guest has and doesn't use, when it sees as many as there are: Linux leaves those that
   * were added to somebody to do so.
   */
  async useVcpus(count: number, { timeoutMs = ONLINE_TIMEOUT_MS, signal }: CallOptions = {}): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    await translated(async () => {
      for (;;) {
        const leftMs = Math.max(1, deadline - performance.now());
        const vcpus = await this.#client.call('guest-get-vcpus', undefined, { timeoutMs: leftMs, signal });
        const unused = vcpus.filter(({ online }) => !online);
        if (unused.length > 0) {
          const wanted = unused.map((vcpu) => ({ 'logical-id': vcpu['logical-id'], online: true }));
          await this.#client.call('guest-set-vcpus', { vcpus: wanted }, { timeoutMs: leftMs, signal });
        }
        if (vcpus.length >= count || performance.now() > deadline) return;
        await delay(100, undefined, { signal });
      }
    });
  }

  /**
   * Makes a Linux guest use memory that is added, so that it can be taken away again; a guest that has decided otherwise
   * keeps its way. https://docs.kernel.org/admin-guide/mm/memory-hotplug.html
   */
  async useAddedMemory(options: CallOptions = {}): Promise<void> {
    let now = '';
    for await (const chunk of this.readFile(autoOnlinePath, options)) now += chunk.toString('latin1');
    if (now.trim() !== 'offline') return;
    const content = (async function* () {
      yield Buffer.from('online_movable');
    })();
    await this.writeFile(autoOnlinePath, content, options);
  }

  /** Where the guest has mounted what lies on a disk of the VM; null: it can't be told. */
  async mountPoints(disk: string, options: CallOptions = {}): Promise<string[] | null> {
    const places = await this.findDisks(options);
    const fileSystems = await translated(() => this.#client.call('guest-get-fsinfo', undefined, options));
    return mountPointsOf(disk, fileSystems, places);
  }

  /** Lets go of the channel for good. The guest is not affected. */
  close(): void {
    this.#client.close();
  }
}

const autoOnlinePath = '/sys/devices/system/memory/auto_online_blocks';

async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toLodgeError(error);
  }
}

/** The contract's error for an {@link AgentError}; anything else as it is. */
export function toLodgeError(error: unknown): unknown {
  if (!(error instanceof AgentError)) return error;
  const { message, reason } = error;
  const options = { cause: error };
  switch (reason) {
    case 'unreachable':
    case 'silent':
    case 'stopped':
    case 'closed':
      return new LodgeError('agent_unavailable', message, options);
    case 'timeout':
      return new LodgeError('timeout', message, options);
    case 'missing':
      return new LodgeError('unsupported', message, { ...options, hint: 'Install a newer guest agent in the guest.' });
    case 'disabled':
      return new LodgeError('unsupported', message, {
        ...options,
        hint: 'Allow it in the configuration of the guest agent, and thaw the guest’s file systems if they are frozen.',
      });
    case 'refused':
      // The words are strerror(3)'s in a guest with the C locale, which agents run in.
      return new LodgeError(/No such file or directory/.test(message) ? 'not_found' : 'hypervisor_failed', message, {
        ...options,
        hint: 'The message has the guest’s own words; look there.',
      });
    case 'protocol':
      return new LodgeError('hypervisor_failed', message, {
        ...options,
        hint: 'Restart the guest agent in the guest, or install a newer one.',
      });
    case 'busy':
      return new LodgeError('rate_limited', message, options);
    case 'cancelled':
      return new LodgeError('cancelled', message, options);
  }
}
