// One run of the probe guest: QEMU with the ROM, one accelerator and one CPU model, under a deadline. Promises: it
// always resolves with what was seen; QEMU is gone when it does.
import { spawn } from 'node:child_process';
import { parseProbeReport, type ProbeReport } from './report.ts';
import { PROBE_EXIT_CODE, PROBE_EXIT_PORT, PROBE_MAGIC, PROBE_RECORD_BYTES, PROBE_REPORT_PORT } from './rom-format.ts';

/** What to run. */
export interface AttemptOptions {
  /** QEMU's program. */
  readonly binary: string;
  readonly accelerator: 'kvm' | 'tcg';
  /** What goes after `-cpu`. */
  readonly cpuModel: string;
  /** What goes after `-machine`. */
  readonly machine: string;
  /** The file with the ROM. */
  readonly romPath: string;
  /** KVM's device. */
  readonly kvmDevice: string;
  /** Options for its memory, instead of 16 MiB. */
  readonly memory?: readonly string[];
  /** The longest it may run, in milliseconds. */
  readonly deadlineMs: number;
  /** The longest it may report nothing after it has begun to, in milliseconds; default: as long as it may run. */
  readonly silenceMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** What was seen. */
export interface Attempt {
  readonly cpuModel: string;
  readonly report: ProbeReport;
  /** From the start of QEMU until the guest was in long mode, in milliseconds. */
  readonly startMs: number | null;
  /** Why it didn't do everything, as a sentence that begins in lower case; null when it did. */
  readonly problem: string | null;
}

/** The most that is read of either output, in bytes. A whole report has some 1,000. */
const MAX_OUTPUT_BYTES = 64 * 1024;

function argumentsFor(options: AttemptOptions): string[] {
  const accelerator = options.accelerator === 'kvm' ? `kvm,device=${options.kvmDevice}` : 'tcg';
  return [
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-name', 'lodge-probe'],
    ['-machine', options.machine, '-accel', accelerator, '-cpu', options.cpuModel],
    options.memory ?? ['-m', '16'],
    ['-bios', options.romPath],
    ['-chardev', 'stdio,id=report,signal=off'],
    ['-device', `isa-debugcon,iobase=${PROBE_REPORT_PORT},chardev=report`],
    ['-device', `isa-debug-exit,iobase=${PROBE_EXIT_PORT},iosize=4`],
  ].flat();
}

/** The line of QEMU's that says most: the first that is no warning, without the program's name. */
function complaintOf(stderr: string): string {
  const lines = stderr.split('\n').map((line) => line.replace(/^\S*qemu\S*: /, '').trim());
  return lines.find((line) => line !== '' && !line.startsWith('warning:') && !line.startsWith('extra data')) ?? '';
}

/** One run of a ROM: what it reported, and how QEMU ended. */
export interface RomRun {
  readonly bytes: Uint8Array;
  /** From the start of QEMU until the first record was there, in milliseconds. */
  readonly startMs: number | null;
  /** QEMU’s own complaint; empty: none. */
  readonly complaint: string;
  /** What QEMU exited with. */
  readonly code: number | null;
  readonly signal: string | null;
  /** Why it was ended, as the end of a sentence; null: it ended by itself. */
  readonly stopped: string | null;
  /** Why QEMU could not be started at all. */
  readonly failure: string | null;
}

/** Runs a ROM once. Never rejects, except with the signal's reason when that is aborted. */
export async function runRom(options: AttemptOptions): Promise<RomRun> {
  const { deadlineMs, silenceMs = deadlineMs, signal } = options;
  signal?.throwIfAborted();
  const startedAt = performance.now();
  const child = spawn(options.binary, argumentsFor(options), { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' });
  const chunks: Buffer[] = [];
  let bytes = 0;
  let stderr = '';
  let startMs: number | null = null;
  const endings: string[] = [];
  const stop = (how: string): void => {
    endings.push(how);
    child.kill('SIGKILL');
  };
  const deadline = setTimeout(() => stop(`was ended after ${deadlineMs} ms`), deadlineMs);
  let silence: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    child.kill('SIGKILL');
  };
  signal?.addEventListener('abort', onAbort, { once: true });

  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    clearTimeout(silence);
    silence = setTimeout(() => stop(`reported nothing for ${silenceMs} ms`), silenceMs);
    if (bytes > MAX_OUTPUT_BYTES) return stop('wrote more than a report');
    chunks.push(chunk);
    // The magic and the first record: the guest is in long mode.
    if (bytes >= PROBE_MAGIC.length + PROBE_RECORD_BYTES) startMs ??= performance.now() - startedAt;
  });
  child.stderr.on('data', (chunk: Buffer) => {
    if (stderr.length < MAX_OUTPUT_BYTES) stderr += chunk.toString('utf8');
    // KVM could not go on with the guest; QEMU would hold it still until the deadline.
    if (stderr.includes('KVM internal error')) stop('KVM could not go on with it (KVM internal error)');
  });
  const ending = await new Promise<{ code: number | null; signal: string | null; error: NodeJS.ErrnoException | null }>(
    (resolve) => {
      child.on('error', (error) => resolve({ code: null, signal: null, error }));
      child.on('close', (code, endSignal) => resolve({ code, signal: endSignal, error: null }));
    },
  );
  clearTimeout(deadline);
  clearTimeout(silence);
  signal?.removeEventListener('abort', onAbort);
  signal?.throwIfAborted();

  const why = ending.error?.code === 'ENOENT' ? 'is not installed' : `can't be started (${ending.error?.message})`;
  return {
    bytes: Buffer.concat(chunks),
    startMs,
    complaint: complaintOf(stderr),
    code: ending.code,
    signal: ending.signal,
    stopped: endings[0] ?? null,
    failure: ending.error ? `${options.binary} ${why}` : null,
  };
}

/** Runs the probe guest once. Never rejects, except with the signal's reason when that is aborted. */
export async function attemptProbe(options: AttemptOptions): Promise<Attempt> {
  const { bytes, startMs, complaint, stopped, failure, ...ending } = await runRom(options);
  const report = parseProbeReport(bytes);
  const attempt = { cpuModel: options.cpuModel, report, startMs: report.isInLongMode ? startMs : null };
  if (failure !== null) return { ...attempt, problem: failure };
  const isComplete = report.problem === null && report.isKernelFit && ending.code === PROBE_EXIT_CODE;
  if (isComplete) return { ...attempt, problem: null };
  const guest = `the guest ${report.problem ?? 'ran to its end'}`;
  if (stopped !== null) return { ...attempt, problem: `${guest}, and ${stopped}` };
  // Nothing came from the guest and QEMU complained: it never began.
  if (!report.isInLongMode && complaint !== '' && ending.code !== 0)
    return { ...attempt, problem: `QEMU said: ${complaint}` };
  if (ending.signal !== null) return { ...attempt, problem: `${guest}, and QEMU died of ${ending.signal}` };
  // With -no-reboot QEMU exits with 0 when the guest resets itself, which is what three faults in a row do.
  if (ending.code === 0) return { ...attempt, problem: `${guest}, and the processor was reset` };
  return { ...attempt, problem: guest };
}
