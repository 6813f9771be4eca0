// lodge vm exec: runs a program in the guest; its output streams through, its exit code becomes ours.
import { LodgeError } from '../../api/errors.ts';
import type { ExecOutput } from '../../api/vm-guest.ts';
import type { Session } from '../connect/session.ts';
import { exitCodes } from '../exit-code.ts';
import { withSuggestion } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { AlreadyPrinted, describeError, Interrupted } from '../output/print-error.ts';
import { fetchVms } from './view.ts';

export interface ExecOptions {
  env?: string[];
  stdin?: boolean;
  timeout?: number;
}

/** As much as the contract takes for standard input. */
const maxInputBytes = 786_432;

export async function execInVm(
  session: Session,
  options: ExecOptions,
  name: string,
  command: readonly string[],
): Promise<number> {
  try {
    return await run(session, options, name, command);
  } catch (failure) {
    if (failure instanceof Interrupted) throw failure;
    // The program's own codes are 0 to 123 and 126 up by custom; ours must not be taken for one of them.
    for (const line of describeError(failure, session.terminal.noteStyle)) process.stderr.write(`${line}\n`);
    const isLate = failure instanceof LodgeError && failure.code === 'timeout';
    throw new AlreadyPrinted(isLate ? exitCodes.guestTimeout.code : exitCodes.guestFailed.code);
  }
}

async function run(session: Session, options: ExecOptions, name: string, command: readonly string[]): Promise<number> {
  const input = options.stdin === true ? await readInput() : undefined;
  return untilInterrupted(
    session,
    async (signal) => {
      const output = await withSuggestion(session, name, fetchVms, () =>
        session.client.vm.exec(
          {
            params: { vm: name },
            query: { project: session.project },
            body: {
              command: [...command],
              environment: options.env,
              input: input?.toString('base64'),
              timeoutS: options.timeout,
            },
          },
          { signal },
        ),
      );
      for await (const one of output) {
        const code = show(one);
        if (code !== null) return code;
      }
      signal.throwIfAborted();
      throw new LodgeError('unavailable', `the output of ${command[0]} in ${name} ended without its exit code`, {
        hint: 'The guest agent or the VM may have stopped; the program may still run in the guest.',
      });
    },
    () => ['Stopped following; the program goes on in the guest.'],
  );
}

/** Passes output on; gives the exit code when it was the end. */
function show(output: ExecOutput): number | null {
  switch (output.type) {
    case 'started':
      return null;
    case 'stdout':
      process.stdout.write(Buffer.from(output.data, 'base64'));
      return null;
    case 'stderr':
      process.stderr.write(Buffer.from(output.data, 'base64'));
      return null;
    case 'exit':
      // As shells have it: 128 and the number of the signal.
      return output.code ?? 128 + (output.signal ?? 0);
  }
}

async function readInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin) {
    const bytes = Buffer.from(chunk as Uint8Array);
    length += bytes.length;
    if (length > maxInputBytes) {
      throw new LodgeError(
        'body_too_large',
        `the guest agent takes at most ${maxInputBytes / 1024} KiB on standard input`,
        {
          hint: 'Copy a file instead: lodge vm cp FILE VM:/path',
        },
      );
    }
    chunks.push(bytes);
  }
  return Buffer.concat(chunks);
}
