// Handing opened files and taps to a QEMU that runs already, for hot-plug: it is confined and can't open them itself,
// and Node can't send descriptors (SCM_RIGHTS), so launch.pl opens and sends them over a monitor of that QEMU.
//
// The monitor must be one that nobody else is connected to: a QEMU socket serves one client at a time, so a guest gets
// a second one for this. A name given by `getfd` is known to that monitor only, hence the command that uses it
// (`netdev_add`) goes the same way; a set made by `add-fd` is known to all, and lasts while any monitor is connected.
import { fileURLToPath } from 'node:url';
import { getSystemErrorMap } from 'node:util';
import { CommandError, run } from '../command.ts';
import { type LaunchFile } from './launch.ts';

/**
 * What is opened, with the caller's rights, and sent along with a command. A tap is one queue of an existing link, by its
 * name, or of a macvtap, by the path of its device.
 */
export type SentDescriptor =
  | { readonly path: string; readonly mode: LaunchFile['mode'] | 'wo' }
  | { readonly tapName: string; readonly isMultiQueue?: boolean };

/** A command of QMP. */
export interface MonitorCommand {
  readonly execute: string;
  readonly arguments?: Readonly<Record<string, unknown>>;
  /** Sent with it: for `getfd` and `add-fd`. */
  readonly descriptor?: SentDescriptor;
  /** It is sent only after a command was refused, to undo those before: `closefd`, `remove-fd`. Default false. */
  readonly isUndo?: boolean;
}

export interface SendDescriptorsOptions {
  /** The unix socket of the monitor; at most 107 bytes. */
  readonly socketPath: string;
  /** In this order, each after the answer to the one before. The greeting is dealt with. */
  readonly commands: readonly MonitorCommand[];
  /** Where taps are looked for: a name that `ip netns` knows. Default: the caller's. */
  readonly netns?: string;
  /** For everything together, in milliseconds. Default 10 s. */
  readonly timeoutMs?: number;
}

/** Something could not be opened or sent, or QEMU refused a command. */
export class SendDescriptorsError extends Error {
  override name = 'SendDescriptorsError';
  readonly step: 'tap' | 'file' | 'socket' | 'command' | 'start';
  /** The path, the link, the socket, the command. */
  readonly subject: string;
  /** The system's name of the error (`ENODEV`), or QEMU's class (`GenericError`); null when time ran out. */
  readonly code: string | null;

  constructor(step: SendDescriptorsError['step'], subject: string, code: string | null, detail: string) {
    super(`${subject} ${detail}`);
    this.step = step;
    this.subject = subject;
    this.code = code;
  }
}

const launcherPath = fileURLToPath(new URL('./launch.pl', import.meta.url));

/** The number of sendmsg: arch/x86/entry/syscalls/syscall_64.tbl, and include/uapi/asm-generic/unistd.h for the others. */
const sendmsgNumbers: Readonly<Record<string, number>> = { x64: 46, arm64: 211, riscv64: 211, loong64: 211 };

/**
 * Opens the descriptors and sends the commands with them. Answers with what each command returned, the undoing ones
 * left out. Rejects with {@link SendDescriptorsError}; when a command was refused, those that undo were sent.
 */
export async function sendDescriptors(options: SendDescriptorsOptions): Promise<unknown[]> {
  const { socketPath, netns, timeoutMs = 10_000 } = options;
  const commands: MonitorCommand[] = [{ execute: 'qmp_capabilities' }, ...options.commands];
  const sendmsg = sendmsgNumbers[process.arch];
  if (sendmsg === undefined) {
    throw new SendDescriptorsError(
      'start',
      process.arch,
      'ENOSYS',
      'is a processor whose system calls are not known here',
    );
  }
  if (Buffer.byteLength(socketPath) > 107) {
    throw new SendDescriptorsError(
      'socket',
      socketPath,
      'ENAMETOOLONG',
      'is too long for a unix socket: 107 bytes at most',
    );
  }
  const argv = ['--send', socketPath, '--sendmsg', String(sendmsg)];
  const opened: SentDescriptor[] = [];
  const lines = commands.map(({ execute, arguments: words, descriptor, isUndo = false }) => {
    const index = descriptor ? opened.push(descriptor) - 1 : '-';
    return `${index} ${isUndo ? 'failed' : 'ok'} ${JSON.stringify({ execute, arguments: words })}\n`;
  });
  for (const [index, descriptor] of opened.entries()) {
    if ('tapName' in descriptor)
      argv.push('--tap', String(index), descriptor.tapName, descriptor.isMultiQueue ? '1' : '0');
    else argv.push('--file', String(index), descriptor.mode, descriptor.path);
  }
  const enter: string[] = netns === undefined ? [] : ['nsenter', `--net=/run/netns/${netns}`, '--'];
  const [program, ...args] = [...enter, 'perl', launcherPath, ...argv] as [string, ...string[]];
  try {
    const { stdout } = await run([program, ...args], { input: lines.join(''), timeoutMs, okExitCodes: [0, 125] });
    return readReport(stdout, commands, opened, socketPath);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    const isLate = error.reason === 'timeout';
    const detail = isLate ? `did not answer within ${timeoutMs} ms` : `could not be reached: ${error.message}`;
    throw new SendDescriptorsError(isLate ? 'socket' : 'start', socketPath, null, detail);
  }
}

function readReport(
  report: string,
  commands: readonly MonitorCommand[],
  opened: readonly SentDescriptor[],
  socketPath: string,
): unknown[] {
  const returned: unknown[] = [];
  let refusal: SendDescriptorsError | null = null;
  let step: SendDescriptorsError['step'] = 'start';
  let subject = socketPath;
  for (const line of report.split('\n')) {
    const [kind, first, second] = line.split(' ');
    if (kind === 'step') {
      step = first as SendDescriptorsError['step'];
      subject = subjectOf(step, Number(second), commands, opened, socketPath);
    } else if (kind === 'error') {
      const [code, message] = getSystemErrorMap().get(-Number(first)) ?? [`errno ${first}`, 'unknown error'];
      refusal ??= new SendDescriptorsError(step, subject, code, explain(step, code, message));
    } else if (kind === 'reply') {
      const reply = JSON.parse(line.slice('reply '.length)) as {
        return?: unknown;
        error?: { class: string; desc: string };
      };
      if (reply.error)
        refusal ??= new SendDescriptorsError(step, subject, reply.error.class, `was refused: ${reply.error.desc}`);
      else if (!refusal) returned.push(reply.return);
    }
  }
  if (refusal) throw refusal;
  // The first is the answer to qmp_capabilities.
  return returned.slice(1);
}

function subjectOf(
  step: SendDescriptorsError['step'],
  index: number,
  commands: readonly MonitorCommand[],
  opened: readonly SentDescriptor[],
  socketPath: string,
): string {
  if (step === 'command') return commands.filter(({ isUndo }) => !isUndo)[index]?.execute ?? '';
  const taps = opened.flatMap((descriptor) => ('tapName' in descriptor ? descriptor.tapName : []));
  const files = opened.flatMap((descriptor) => ('path' in descriptor ? descriptor.path : []));
  return (step === 'tap' ? taps[index] : step === 'file' ? files[index] : socketPath) ?? '';
}

function explain(step: SendDescriptorsError['step'], code: string, message: string): string {
  if (step === 'tap' && code === 'ENODEV') return 'is no persistent tap link that exists (ENODEV)';
  const what = { tap: 'could not be attached', file: 'could not be opened', socket: 'could not be connected to' };
  return `${step === 'command' || step === 'start' ? 'could not be sent' : what[step]}: ${message} (${code})`;
}
