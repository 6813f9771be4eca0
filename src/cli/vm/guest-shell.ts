// Small scripts in a guest, through its agent: what lodge vm cp has to know and do there beside reading and writing
// files. Arguments are passed as arguments, never as a part of the script.
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';

/** Scripts look and move; what takes longer has a deadline of its own. Seconds. */
const scriptTimeoutS = 60;
/** What a guest may answer to one script, bytes. */
const maxOutputBytes = 64 * 1024 * 1024;

export interface ScriptOptions {
  /** For its standard input, at most 768 KiB. */
  input?: string;
  timeoutS?: number;
  signal?: AbortSignal;
}

export interface ScriptResult {
  code: number;
  output: Buffer;
  /** The last thing it said on standard error. */
  complaint: string;
}

/** What `exec` of a guest takes for standard input, bytes, with room for quotes. */
export const scriptInputBytes = 600 * 1024;

/** Runs a program in the guest and collects its output. Throws a {@link LodgeError} when it can't be run. */
export async function runInGuest(
  session: Session,
  vm: string,
  command: readonly string[],
  options: ScriptOptions = {},
): Promise<ScriptResult> {
  const { input, timeoutS = scriptTimeoutS, signal } = options;
  const events = await session.client.vm.exec(
    {
      params: { vm },
      query: { project: session.project },
      body: {
        command: [...command],
        timeoutS,
        environment: ['LC_ALL=C'],
        ...(input === undefined ? {} : { input: Buffer.from(input).toString('base64') }),
      },
    },
    { signal },
  );
  const output: Buffer[] = [];
  let bytes = 0;
  let complaints = '';
  for await (const event of events) {
    if (event.type === 'stdout') {
      const chunk = Buffer.from(event.data, 'base64');
      bytes += chunk.length;
      if (bytes > maxOutputBytes)
        throw new LodgeError('hypervisor_failed', `${command[0]} in ${vm} writes without an end`);
      output.push(chunk);
    }
    if (event.type === 'stderr') complaints = (complaints + Buffer.from(event.data, 'base64').toString()).slice(-4096);
    if (event.type === 'exit') {
      const complaint = complaints.trim().split('\n').at(-1) ?? '';
      return { code: event.code ?? 128 + (event.signal ?? 0), output: Buffer.concat(output), complaint };
    }
  }
  signal?.throwIfAborted();
  throw new LodgeError('unavailable', `${command[0]} in ${vm} ended without its exit code`, {
    hint: 'The guest agent or the VM may have stopped.',
  });
}

/** Runs a script of the POSIX shell; `$1` and so on are the arguments. */
export function runScript(
  session: Session,
  vm: string,
  script: string,
  args: readonly string[],
  options: ScriptOptions = {},
): Promise<ScriptResult> {
  return runInGuest(session, vm, ['sh', '-c', script, 'sh', ...args], options);
}
