// How talking to QEMU's monitor can fail. The classes differ in what the caller may conclude: whether the command ran.

/** QEMU answered a command with an error: the command had no effect, unless its documentation says otherwise. */
export class QmpError extends Error {
  override name = 'QmpError';
  /** QEMU's class: GenericError, CommandNotFound, DeviceNotActive, DeviceNotFound or KVMMissingCap. */
  readonly errorClass: string;
  /** QEMU's own words, for people. */
  readonly description: string;
  readonly command: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.errorClass = errorClass;
    this.description = description;
    this.command = command;
  }
}

/** The monitor could not be reached, or did not greet. Nothing was sent. */
export class QmpConnectError extends Error {
  override name = 'QmpConnectError';
  readonly path: string;
  /**
   * `missing`, `refused`: QEMU is not there (any more). `timeout`: it does not accept. `greeting`: it accepted and did
   * not greet in time, which is also what happens while another client holds the monitor. `closed`: it hung up.
   * `protocol`: what answers is no QMP monitor. `path`: the path is too long for a socket.
   */
  readonly reason:
    | 'missing'
    | 'refused'
    | 'timeout'
    | 'greeting'
    | 'closed'
    | 'protocol'
    | 'path'
    | 'aborted'
    | 'other';

  constructor(path: string, reason: QmpConnectError['reason'], detail: string, cause?: unknown) {
    super(detail, { cause });
    this.path = path;
    this.reason = reason;
  }
}

/** The deadline passed without an answer. Where `wasSent` is true the command may have run or may still run. */
export class QmpTimeoutError extends Error {
  override name = 'QmpTimeoutError';
  readonly command: string;
  readonly timeoutMs: number;
  readonly wasSent: boolean;

  constructor(command: string, timeoutMs: number, wasSent: boolean) {
    const state = wasSent ? 'QEMU did not answer' : 'it was not sent, because earlier commands are still unanswered';
    super(`${command} had ${timeoutMs} ms: ${state}`);
    this.command = command;
    this.timeoutMs = timeoutMs;
    this.wasSent = wasSent;
  }
}

/** The connection ended. Where `wasSent` is true the command may have run. */
export class QmpClosedError extends Error {
  override name = 'QmpClosedError';
  /** `lost`: QEMU or the kernel ended it. `protocol`: QEMU sent what is no QMP. `closed`: this side closed it. */
  readonly reason: 'lost' | 'protocol' | 'closed';
  /** The command that was under way or refused, or null for the end of the connection itself. */
  readonly command: string | null;
  readonly wasSent: boolean;

  constructor(reason: QmpClosedError['reason'], detail: string, command: string | null, wasSent: boolean) {
    super(command === null ? detail : `${command}: ${detail}`);
    this.reason = reason;
    this.command = command;
    this.wasSent = wasSent;
  }
}

/** More commands wait, or more events were not picked up, than the limit allows. */
export class QmpOverloadError extends Error {
  override name = 'QmpOverloadError';
}

/** The caller's signal ended the wait. Where `wasSent` is true the command may have run or may still run. */
export class QmpAbortedError extends Error {
  override name = 'QmpAbortedError';
  readonly command: string;
  readonly wasSent: boolean;

  constructor(command: string, wasSent: boolean) {
    super(`${command} was cancelled`);
    this.command = command;
    this.wasSent = wasSent;
  }
}
