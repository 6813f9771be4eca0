// The guest agent as typed calls: each answer is checked against its schema, and a command that the agent does not have
// is refused with its name before it is sent.
import { AgentChannel, type AgentChannelOptions, type AgentExecuteOptions } from './channel.ts';
import {
  agentCommands,
  type AgentAnswer,
  type AgentArguments,
  type AgentCommandName,
  type AgentInfo,
} from './commands.ts';
import { AgentError } from './errors.ts';

export class AgentClient {
  readonly #channel: AgentChannel;
  /** What the agent of this generation of the channel said of itself. */
  #info: { generation: number; value: AgentInfo } | null = null;

  /** `path` is the unix socket of the virtio-serial port `org.qemu.guest_agent.0`. Connects at the first call. */
  constructor(path: string, options: AgentChannelOptions = {}) {
    this.#channel = new AgentChannel(path, options);
  }

  /** See {@link AgentChannel.notePort}. */
  notePort(isOpen: boolean | null): void {
    this.#channel.notePort(isOpen);
  }

  /** Calls a command. Rejects with {@link AgentError}. */
  async call<C extends AgentCommandName>(
    command: C,
    args: AgentArguments<C>,
    options: AgentExecuteOptions = {},
  ): Promise<AgentAnswer<C>> {
    const { timeoutMs = 10_000 } = options;
    const deadline = performance.now() + timeoutMs;
    if (!(await this.has(command, options))) {
      throw new AgentError('missing', command, 'the guest agent does not have this command');
    }
    const remainingMs = Math.max(1, deadline - performance.now());
    const answer = await this.#channel.execute(command, args, { ...options, timeoutMs: remainingMs });
    if (options.silenceMs !== undefined && answer === null) return null as AgentAnswer<C>;
    return this.#check(command, answer);
  }

  /** Whether the agent has the command; asks the agent once and again after it was restarted. */
  async has(command: AgentCommandName, options: AgentExecuteOptions = {}): Promise<boolean> {
    // These two have been there since the first agent, and are what the question itself needs.
    if (command === 'guest-info' || command === 'guest-ping') return true;
    const { supported_commands: commands } = await this.info(options);
    return commands.length === 0 || commands.some(({ name }) => name === command);
  }

  /** What the agent says of itself. */
  async info(options: AgentExecuteOptions = {}): Promise<AgentInfo> {
    const { generation } = this.#channel;
    if (this.#info?.generation === generation) return this.#info.value;
    const { timeoutMs, signal } = options;
    let value: AgentInfo;
    try {
      value = this.#check('guest-info', await this.#channel.execute('guest-info', undefined, { timeoutMs, signal }));
    } catch (error) {
      if (!(error instanceof AgentError) || error.reason !== 'missing') throw error;
      // A small agent may not tell what it can do; then each command is tried.
      value = { version: '', supported_commands: [] };
    }
    this.#info = { generation: this.#channel.generation, value };
    return value;
  }

  /** Ends the channel for good. The guest is not affected. */
  close(): void {
    this.#channel.close();
  }

  #check<C extends AgentCommandName>(command: C, answer: unknown): AgentAnswer<C> {
    const checked = agentCommands[command].answer.safeParse(answer);
    if (checked.success) return checked.data as AgentAnswer<C>;
    const [issue] = checked.error.issues;
    const where = issue && issue.path.length > 0 ? issue.path.join('.') : 'answer';
    throw new AgentError(
      'protocol',
      command,
      `the guest agent's answer is not valid: ${where}: ${issue?.message ?? ''}`,
    );
  }
}
