// Exit codes of `lodge`: what scripts may rely on. Printed in `lodge --help` and docs/cli.md.
import type { ErrorCode } from '../api/errors.ts';

/** Each exit code and what it means. */
export const exitCodes = {
  ok: { code: 0, meaning: 'It worked.' },
  failed: { code: 1, meaning: 'It failed; stderr says why.' },
  usage: { code: 2, meaning: 'The command line, a file or a value in it is not valid; nothing was changed.' },
  notFound: { code: 3, meaning: 'There is no such object.' },
  conflict: { code: 4, meaning: 'The object is in a state, or in a use, in which this can not be done.' },
  unreachable: { code: 5, meaning: 'The daemon can not be reached, or is not ready.' },
  forbidden: { code: 6, meaning: 'The credentials are missing, not valid, or do not allow it.' },
  timeout: { code: 7, meaning: 'It took longer than its deadline.' },
  differs: { code: 8, meaning: '`lodge apply --dry-run --exit-code` found something to change.' },
  guestTimeout: { code: 124, meaning: '`lodge vm exec`: the program ran longer than --timeout.' },
  guestFailed: { code: 125, meaning: '`lodge vm exec`: Lodge could not run the program; other codes are its own.' },
  interrupted: { code: 130, meaning: 'Interrupted by Ctrl-C; a task that was waited for goes on.' },
} as const satisfies Record<string, { code: number; meaning: string }>;

export type ExitName = keyof typeof exitCodes;

const byErrorCode: Partial<Record<ErrorCode, ExitName>> = {
  invalid_request: 'usage',
  body_too_large: 'usage',
  not_found: 'notFound',
  name_taken: 'conflict',
  revision_conflict: 'conflict',
  wrong_state: 'conflict',
  in_use: 'conflict',
  busy: 'conflict',
  idempotency_conflict: 'conflict',
  agent_unavailable: 'conflict',
  unauthenticated: 'forbidden',
  forbidden: 'forbidden',
  unavailable: 'unreachable',
  timeout: 'timeout',
};

/** The exit code for an error of the contract. */
export function exitCodeOf(code: ErrorCode): number {
  return exitCodes[byErrorCode[code] ?? 'failed'].code;
}
