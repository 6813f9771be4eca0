// A guest agent that answers as the test says: it speaks the protocol (synchronization, guest-info, errors) by itself,
// and each command is a function of the test.
import { UnixPeer } from './unix-peer.ts';

/** Answered as an error of the agent. */
export class AgentRefusal extends Error {
  readonly errorClass: string;

  constructor(description: string, errorClass = 'GenericError') {
    super(description);
    this.errorClass = errorClass;
  }
}

/** Returned by a command that never answers. */
export const SILENCE = Symbol('no answer');

type Command = (args: Record<string, unknown>) => unknown;

export class FakeAgent implements AsyncDisposable {
  readonly peer: UnixPeer;
  readonly commands: Record<string, Command>;
  /** Every command that arrived, in order, without synchronizations. */
  readonly heard: string[] = [];
  synchronizations = 0;
  /** Sent before the answer of a synchronization. */
  garbage: string | Uint8Array = '';
  isSilent = false;

  static async listen(commands: Record<string, Command>): Promise<FakeAgent> {
    return new FakeAgent(await UnixPeer.listen(), commands);
  }

  private constructor(peer: UnixPeer, commands: Record<string, Command>) {
    this.peer = peer;
    this.commands = {
      'guest-info': () => ({
        version: '7.2.0',
        supported_commands: Object.keys(this.commands).map((name) => ({ name, enabled: true })),
      }),
      ...commands,
    };
    peer.onLine = (line) => void this.#answer(line);
  }

  get path(): string {
    return this.peer.path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
  }

  async #answer(line: string): Promise<void> {
    if (this.isSilent) return;
    const request = JSON.parse(line.replace(/^\u{ff}+/u, '')) as { execute: string; arguments?: object };
    const args = { ...request.arguments } as Record<string, unknown>;
    if (request.execute === 'guest-sync-delimited') {
      this.synchronizations++;
      this.peer.send(this.garbage);
      this.peer.send(Buffer.concat([Buffer.from([0xff]), Buffer.from(`{"return": ${String(args['id'])}}\n`)]));
      return;
    }
    this.heard.push(request.execute);
    try {
      const command = this.commands[request.execute];
      if (!command) throw new AgentRefusal(`The command ${request.execute} has not been found`, 'CommandNotFound');
      const value = await command(args);
      if (value !== SILENCE) this.peer.send(`${JSON.stringify({ return: value })}\n`);
    } catch (error) {
      const errorClass = error instanceof AgentRefusal ? error.errorClass : 'GenericError';
      this.peer.send(`${JSON.stringify({ error: { class: errorClass, desc: (error as Error).message } })}\n`);
    }
  }
}
