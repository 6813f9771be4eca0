// The one error of Lodge: every refusal and failure that leaves the daemon is one of these codes, in one shape.
// It says what failed with its names and numbers (`message`), and what to do next (`hint`).
import * as z from 'zod';

/** Every code, its HTTP status, what it means, and what to do when nothing more specific is known. */
export const errorCodes = {
  invalid_request: {
    status: 400,
    meaning: 'A field, parameter or body is not valid.',
    hint: 'Correct the named field and send the request again.',
  },
  unauthenticated: {
    status: 401,
    meaning: 'No valid credentials came with the request.',
    hint: 'Send an access token (Authorization: Bearer …), or use the unix socket as root or a member of the group lodge.',
  },
  forbidden: {
    status: 403,
    meaning: 'The credentials do not give the permission this needs.',
    hint: 'Use credentials with the permission named in the message.',
  },
  not_found: {
    status: 404,
    meaning: 'There is no such object or path.',
    hint: 'List the objects to see their names; names are looked up in one project.',
  },
  method_not_allowed: {
    status: 405,
    meaning: 'The path exists, but not with this method.',
    hint: 'See /docs for the methods of this path.',
  },
  name_taken: {
    status: 409,
    meaning: 'Another object of this kind has the name in this project.',
    hint: 'Choose another name, or delete the other object first.',
  },
  revision_conflict: {
    status: 409,
    meaning: 'The object was changed after the revision this write was based on.',
    hint: 'Read the object again, apply the change to it, and write with its new revision.',
  },
  wrong_state: {
    status: 409,
    meaning: 'The object is in a state in which this can not be done.',
    hint: 'Bring it into one of the states named in the message first.',
  },
  in_use: {
    status: 409,
    meaning: 'Something else still uses the object.',
    hint: 'Remove what uses it first; the message names it.',
  },
  busy: {
    status: 409,
    meaning: 'Another operation on the object is under way.',
    hint: 'Wait for the named task, or cancel it.',
  },
  idempotency_conflict: {
    status: 409,
    meaning: 'The idempotency key was used before with a different request.',
    hint: 'Use a new key for a new request.',
  },
  agent_unavailable: {
    status: 409,
    meaning: 'The guest agent does not answer.',
    hint: 'Install and start qemu-guest-agent in the guest, and wait until it is up.',
  },
  cancelled: {
    status: 409,
    meaning: 'The operation was cancelled and undone.',
    hint: 'Start it again if you still want it.',
  },
  revision_gone: {
    status: 410,
    meaning: 'The revision to resume from is no longer kept.',
    hint: 'List the objects again and resume from the revision of that list.',
  },
  body_too_large: {
    status: 413,
    meaning: 'The request body is larger than allowed.',
    hint: 'Send less; images are uploaded through their own route.',
  },
  unsupported_media_type: {
    status: 415,
    meaning: 'The body is not of the media type this route takes.',
    hint: 'Send JSON with Content-Type: application/json.',
  },
  unsupported: {
    status: 422,
    meaning: 'This hypervisor, machine or guest can not do that.',
    hint: 'See the node’s capabilities for what it can do.',
  },
  insufficient_resources: {
    status: 422,
    meaning: 'The node has less of something than was asked for.',
    hint: 'Ask for less, or free some on the node.',
  },
  image_invalid: {
    status: 422,
    meaning: 'The image is damaged, of an unknown format, or not safe to use.',
    hint: 'Get a good copy of the image, and give its checksum.',
  },
  checksum_mismatch: {
    status: 422,
    meaning: 'The data does not have the checksum that was given.',
    hint: 'Check the checksum and the source, and try again.',
  },
  host_conflict: {
    status: 422,
    meaning: 'Something on the host that is not Lodge’s stands in the way.',
    hint: 'Choose another name, port or subnet, or remove what the message names.',
  },
  rate_limited: {
    status: 429,
    meaning: 'Too many requests of this kind at once.',
    hint: 'Wait for some to end and try again.',
  },
  internal: {
    status: 500,
    meaning: 'Lodge made a mistake.',
    hint: 'Look for the request id in the daemon’s log and report it.',
  },
  hypervisor_failed: {
    status: 502,
    meaning: 'The hypervisor refused or failed.',
    hint: 'See the VM’s log (lodge vm log) for its own words.',
  },
  download_failed: {
    status: 502,
    meaning: 'The source could not be read.',
    hint: 'Check the address and that the node can reach it; the download resumes where it stopped.',
  },
  host_failed: {
    status: 502,
    meaning: 'A program or the kernel of the host refused or failed.',
    hint: 'The message names what was run and what it said.',
  },
  unavailable: {
    status: 503,
    meaning: 'The daemon is starting or stopping, or something it needs is missing.',
    hint: 'Try again shortly; lodge node show tells what is missing.',
  },
  timeout: { status: 504, meaning: 'It took longer than its deadline.', hint: 'Check what holds it up and try again.' },
  storage_full: {
    status: 507,
    meaning: 'The storage has no room for this.',
    hint: 'Free some space, or choose a smaller size.',
  },
} as const satisfies Record<string, { status: number; meaning: string; hint: string }>;

/** One of the codes of {@link errorCodes}. */
export type ErrorCode = keyof typeof errorCodes;

const codes = Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]];

/** One invalid field: where it is, what was given, what is allowed. */
export const fieldProblem = z
  .object({
    field: z.string().describe('Path of the field, such as spec.cpu.count or query.limit'),
    message: z.string().describe('What is wrong with it and what is allowed'),
    value: z.unknown().optional().describe('The value that was given, shortened'),
  })
  .meta({ id: 'FieldProblem' });
export type FieldProblem = z.output<typeof fieldProblem>;

/** The body of every answer that is an error, and the data of `event: error` in a stream. */
export const errorBody = z
  .object({
    error: z.object({
      code: z.enum(codes),
      message: z.string().describe('What failed, with its names and numbers'),
      hint: z.string().describe('What to do next'),
      fields: z.array(fieldProblem).optional().describe('The invalid fields, for invalid_request'),
      requestId: z.string().optional().describe('Finds the request in the daemon’s log'),
    }),
  })
  .meta({ id: 'Error' });
export type ErrorBody = z.output<typeof errorBody>;

export interface LodgeErrorOptions {
  /** What to do next; without it, the code's own hint. */
  hint?: string;
  fields?: FieldProblem[];
  requestId?: string;
  /** What caused it. It is logged at the boundary and never sent. */
  cause?: unknown;
}

/** The one error class. `message` is one sentence for people; `code` is for programs. */
export class LodgeError extends Error {
  override name = 'LodgeError';
  readonly code: ErrorCode;
  readonly hint: string;
  readonly fields: FieldProblem[] | undefined;
  readonly requestId: string | undefined;

  constructor(code: ErrorCode, message: string, options: LodgeErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint ?? errorCodes[code].hint;
    this.fields = options.fields;
    this.requestId = options.requestId;
  }

  /** HTTP status of the code. */
  get status(): number {
    return errorCodes[this.code].status;
  }

  /** The error as it goes over the wire and into a task. */
  toBody(requestId?: string): ErrorBody {
    return {
      error: {
        code: this.code,
        message: this.message,
        hint: this.hint,
        ...(this.fields ? { fields: this.fields } : {}),
        ...((requestId ?? this.requestId) ? { requestId: requestId ?? this.requestId } : {}),
      },
    };
  }

  /** The error again, from its body; used by the client and for errors kept in tasks. */
  static fromBody(body: ErrorBody): LodgeError {
    const { code, message, hint, fields, requestId } = body.error;
    return new LodgeError(code, message, { hint, fields, requestId });
  }
}

/** An invalid_request for one field. */
export function invalidField(field: string, message: string, value?: unknown): LodgeError {
  const shown = value === undefined ? undefined : shorten(value);
  return new LodgeError('invalid_request', `${field}: ${message}${shown === undefined ? '' : ` (given: ${shown})`}`, {
    fields: [{ field, message, ...(shown === undefined ? {} : { value: shown }) }],
  });
}

/** Characters that are not seen, or that turn the text around them: https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters */
const unseen = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** A value as it may stand in a message: control and invisible characters escaped, at most 80 characters. */
export function shorten(value: unknown): string {
  const text = (JSON.stringify(value) ?? typeof value).replace(
    unseen,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
