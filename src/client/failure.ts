// Turns what goes wrong between client and daemon into a LodgeError that says what to do: no daemon, no permission on
// its socket, an unknown certificate, a broken connection, an answer that is not Lodge's.
import { errorBody, LodgeError, type ErrorCode, errorCodes } from '../api/errors.ts';

/** Where a request was sent, for messages: `/run/lodge/lodge.sock` or `https://host:7443`. */
export type Target = string;

/** The codes of Node's system, DNS and TLS errors, and what each means to a user. */
const causes: Readonly<Record<string, (target: Target) => { message: string; hint: string }>> = {
  ENOENT: (target) => ({
    message: `no daemon listens on ${target}`,
    hint: 'Start it with `npm start` or `systemctl start lodge`; another socket is given with --socket or LODGE_SOCKET.',
  }),
  ECONNREFUSED: (target) => ({
    message: `nothing answers on ${target}`,
    hint: 'Start the daemon with `npm start` or `systemctl start lodge`, and check the address.',
  }),
  EACCES: (target) => ({
    message: `this user may not use ${target}`,
    hint: 'Use it as root, or join the group lodge (usermod -aG lodge USER) and sign in again.',
  }),
  EPERM: (target) => ({
    message: `this user may not use ${target}`,
    hint: 'Use it as root, or join the group lodge (usermod -aG lodge USER) and sign in again.',
  }),
  ENOTSOCK: (target) => ({ message: `${target} is not a socket`, hint: 'Check the path of the daemon’s socket.' }),
  ENOTFOUND: (target) => ({ message: `the host of ${target} is unknown`, hint: 'Check the name, or give an address.' }),
  EAI_AGAIN: (target) => ({ message: `the name of ${target} can not be resolved now`, hint: 'Check DNS and network.' }),
  EHOSTUNREACH: (target) => ({
    message: `${target} can not be reached`,
    hint: 'Check the network between here and it.',
  }),
  ENETUNREACH: (target) => ({
    message: `${target} can not be reached`,
    hint: 'Check the network between here and it.',
  }),
  ETIMEDOUT: (target) => ({
    message: `${target} does not answer`,
    hint: 'Check the address, and firewalls on the way.',
  }),
  CERT_HAS_EXPIRED: (target) => ({
    message: `the certificate of ${target} has expired`,
    hint: 'The daemon renews its certificate by itself: check the clocks of both machines.',
  }),
  ERR_TLS_CERT_ALTNAME_INVALID: (target) => ({
    message: `the certificate of ${target} is for other names`,
    hint: 'Use one of the names the daemon knows for itself (lodge server show lists its address).',
  }),
};

const untrusted = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_SIGNATURE_FAILURE',
]);

/** The system's code of an error, wherever fetch or TLS has put it. */
export function systemCode(failure: unknown): string | null {
  for (let current = failure, depth = 0; current instanceof Error && depth < 5; current = current.cause, depth += 1) {
    if ('code' in current && typeof current.code === 'string') return current.code;
    if (current instanceof AggregateError && current.errors.length > 0) {
      const [first] = current.errors as unknown[];
      const code = systemCode(first);
      if (code !== null) return code;
    }
  }
  return null;
}

/** A failure of the connection as a LodgeError: `unavailable`, with what to do. LodgeErrors pass as they are. */
export function connectionFailure(failure: unknown, target: Target): LodgeError {
  if (failure instanceof LodgeError) return failure;
  const code = systemCode(failure);
  if (code !== null && untrusted.has(code)) {
    return new LodgeError('unavailable', `the certificate of ${target} is not signed by a known authority`, {
      hint: 'Give the daemon’s own authority with --ca: it is `tls/ca.crt` in the daemon’s data folder, and in `lodge server show` on its machine.',
      cause: failure,
    });
  }
  const known = code === null ? undefined : causes[code]?.(target);
  if (known) return new LodgeError('unavailable', known.message, { hint: known.hint, cause: failure });
  const why = failure instanceof Error && failure.message !== '' ? failure.message : String(failure);
  return new LodgeError('unavailable', `the connection to ${target} failed: ${code ?? why}`, {
    hint: 'Check that the daemon runs and can be reached, and try again.',
    cause: failure,
  });
}

const byStatus: Readonly<Record<number, ErrorCode>> = Object.fromEntries(
  Object.entries(errorCodes)
    .reverse()
    .map(([code, { status }]) => [status, code as ErrorCode]),
);

/** The error in an answer that is not a success, also when something between client and daemon made the answer. */
export function errorFromAnswer(status: number, text: string, target: Target): LodgeError {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  const body = errorBody.safeParse(parsed);
  if (body.success) return LodgeError.fromBody(body.data);
  const code = status >= 500 ? 'unavailable' : (byStatus[status] ?? 'unavailable');
  return new LodgeError(code, `${target} answered with HTTP ${status}, and not in Lodge’s format`, {
    hint: 'A proxy between here and the daemon may have answered, or this is not a Lodge daemon: check the address.',
  });
}
