// What a command works with: a client of the chosen daemon, the project, and the terminal.
import type { LodgeClient } from '../../client/client.ts';
import type { NodeClient } from '../../client/node-transport.ts';
import { processTerminal, type Terminal } from '../output/terminal.ts';
import type { OutputFormat } from '../output/print.ts';
import type { ConnectionOptions } from './connection.ts';

/** Options that every command takes. */
export interface GlobalOptions extends ConnectionOptions {
  output?: OutputFormat;
  quiet?: boolean;
}

export interface Session {
  client: LodgeClient;
  openWebSocket: NodeClient['openWebSocket'];
  /** Project in which names are looked up. */
  project: string;
  /** Through the unix socket: files and guests of the daemon's machine can be reached from here. */
  isLocal: boolean;
  /** What messages call the daemon. */
  target: string;
  format: OutputFormat;
  terminal: Terminal;
  close(): void;
}

/** Connects as options, environment and configuration say. Nothing is sent yet. */
export async function openSession(options: GlobalOptions): Promise<Session> {
  const [{ chooseConnection, resolveConnection }, { configPath, readConfig }, { connect }] = await Promise.all([
    import('./connection.ts'),
    import('./config.ts'),
    import('../../client/node-transport.ts'),
  ]);
  const terminal = processTerminal(options.quiet === true);
  const { config, warning } = await readConfig(configPath());
  if (warning !== null) terminal.note(`${terminal.noteStyle.yellow('warning:')} ${warning}`);
  const choice = chooseConnection(options, process.env, config);
  const connection = connect(await resolveConnection(choice));
  return {
    client: connection.client,
    openWebSocket: (path, options) => connection.openWebSocket(path, options),
    target: connection.target,
    close: () => connection.close(),
    project: choice.project ?? 'default',
    isLocal: choice.socketPath !== undefined,
    format: options.output ?? 'table',
    terminal,
  };
}
