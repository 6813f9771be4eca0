// How talking to the agent in a guest can fail.

/**
 * `unreachable`: there is no channel to the guest; its QEMU is not running. `silent`: the channel is there and no agent
 * answers on it. `stopped`: the agent went away while a command was under way. `timeout`: the agent answers, but not to
 * this command in time. `missing`: the agent does not have the command. `disabled`: it has the command but does not
 * allow it, by its configuration or because file systems are frozen. `refused`: it answered with an error. `protocol`:
 * it answered with something that is no proper answer. `busy`: too many commands wait. `cancelled`: the caller gave
 * up. `closed`: this side has closed the channel.
 */
export type AgentFailure =
  | 'unreachable'
  | 'silent'
  | 'stopped'
  | 'timeout'
  | 'missing'
  | 'disabled'
  | 'refused'
  | 'protocol'
  | 'busy'
  | 'cancelled'
  | 'closed';

/** The guest agent could not be reached, or did not do what it was asked. The message is for people. */
export class AgentError extends Error {
  override name = 'AgentError';
  readonly reason: AgentFailure;
  /** The command that failed, such as `guest-exec`; null where the failure is not one command's. */
  readonly command: string | null;

  constructor(reason: AgentFailure, command: string | null, detail: string, cause?: unknown) {
    super(command === null ? detail : `${command}: ${detail}`, { cause });
    this.reason = reason;
    this.command = command;
  }
}
