// Errors for people: one line that says what failed, the fields that are not valid, one line that says what to do.
import { LodgeError } from '../../api/errors.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import { exitCodeOf, exitCodes } from '../exit-code.ts';
import type { Style } from './style.ts';

/** The user pressed Ctrl-C; what was said about it has been printed. */
export class Interrupted extends Error {
  override name = 'Interrupted';
}

/** A failure that has been printed already, such as one of several VMs'. */
export class AlreadyPrinted extends Error {
  override name = 'AlreadyPrinted';
  readonly exitCode: number;

  constructor(exitCode: number) {
    super('printed before');
    this.exitCode = exitCode;
  }
}

/** The lines that tell an error. `prefix` names what it happened to, where there are several. */
export function describeError(failure: unknown, style: Style, prefix = ''): string[] {
  const label = style.red(style.bold('error:'));
  const before = prefix === '' ? '' : `${prefix}: `;
  if (!(failure instanceof LodgeError)) {
    const text = failure instanceof Error ? failure.message : String(failure);
    return [
      `${label} ${before}${escapeControls(text)}`,
      `${style.cyan('hint:')}  This is a mistake in lodge itself. Run it again with LODGE_DEBUG=1 for details, and report it.`,
    ];
  }
  const fields = (failure.fields ?? []).filter((field) => !failure.message.includes(field.message));
  const lines = [
    `${label} ${before}${escapeControls(failure.message)}`,
    ...fields.map(({ field, message }) => `  ${style.bold(escapeControls(field))}: ${escapeControls(message)}`),
  ];
  if (failure.hint !== '') lines.push(`${style.cyan('hint:')}  ${escapeControls(failure.hint)}`);
  if (failure.code === 'internal' && failure.requestId !== undefined) {
    lines.push(`       request id: ${escapeControls(failure.requestId)}`);
  }
  return lines;
}

/** The exit code for a failure. */
export function exitCodeFor(failure: unknown): number {
  if (failure instanceof Interrupted) return exitCodes.interrupted.code;
  if (failure instanceof AlreadyPrinted) return failure.exitCode;
  if (failure instanceof LodgeError) return exitCodeOf(failure.code);
  return exitCodes.failed.code;
}
