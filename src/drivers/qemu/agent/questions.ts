// Many questions to one agent, of which some may not be answered: what is missing is noted with its reason, and the rest
// is told.
import type { CallOptions } from '../../driver.ts';
import type { AgentClient } from './client.ts';
import type { AgentAnswer, AgentCommandName } from './commands.ts';
import { AgentError } from './errors.ts';

/** Failures of one question that say nothing about the others. */
const aboutOne: ReadonlySet<string> = new Set(['missing', 'disabled', 'refused', 'protocol']);

export class Questions {
  readonly missing: { what: string; reason: string }[] = [];
  readonly #client: AgentClient;
  readonly #deadline: number;
  readonly #signal: AbortSignal | undefined;

  constructor(client: AgentClient, options: CallOptions & { timeoutMs: number }) {
    this.#client = client;
    this.#deadline = performance.now() + options.timeoutMs;
    this.#signal = options.signal;
  }

  get #options(): { timeoutMs: number; signal?: AbortSignal } {
    const timeoutMs = Math.max(1, this.#deadline - performance.now());
    return this.#signal ? { timeoutMs, signal: this.#signal } : { timeoutMs };
  }

  /** Version of the agent; empty where it doesn't tell. */
  async version(): Promise<string> {
    return (await this.#client.info(this.#options)).version;
  }

  /**
   * Asks a question that has no arguments. Null: no answer, which is noted for the fields it was for. Throws
   * {@link AgentError} where there is no agent to ask.
   */
  async ask<C extends AgentCommandName>(command: C, ...fields: readonly string[]): Promise<AgentAnswer<C> | null> {
    try {
      return await this.#client.call(command, undefined as never, this.#options);
    } catch (error) {
      if (!(error instanceof AgentError) || !aboutOne.has(error.reason)) throw error;
      for (const what of fields) this.missing.push({ what, reason: error.message });
      return null;
    }
  }
}
