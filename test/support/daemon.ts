// The real daemon for a test: in a process of its own, with folders, socket and instance name of its own, so that many
// run beside each other and beside a Lodge that the machine really runs. However the test ends, the daemon and all that
// it started are gone afterwards, and when it failed the end of the daemon's log is shown.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type LodgeClient } from '../../src/client/client.ts';
import { connect, type NodeClient } from '../../src/client/node-transport.ts';
import { nodeOptions } from '../../src/daemon/node-options.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { removeTraces } from './leaks.ts';
import { markedName } from './mark.ts';
import { type NetworkNamespace } from './namespace.ts';
import { temporaryFolder } from './temporary.ts';
import { eventually } from './wait.ts';

const root = join(import.meta.dirname, '../..');

export interface DaemonOptions {
  driver: 'fake' | 'qemu';
  /** Where it listens for HTTPS: `127.0.0.1:0` takes a free port. Default: nowhere but on its unix socket. */
  listen?: string;
  /** More keys of the configuration file, on top of those that keep it to its folder. */
  config?: Record<string, unknown>;
  /** Runs it in this network namespace, where its bridges and rules touch nothing. */
  namespace?: NetworkNamespace;
  /** Added to its environment. */
  env?: Record<string, string>;
  /** The longest that it may take until it is ready, in milliseconds. Default 90 s. */
  readyTimeoutMs?: number;
}

/** A daemon of a test. After `kill` or `stop` it is down until `start`. */
export class TestDaemon {
  /** Marks everything it makes on the machine. */
  readonly instance = markedName();
  readonly folder: string;
  readonly socketPath: string;
  readonly configPath: string;
  readonly logPath: string;
  readonly #options: DaemonOptions;
  #process: ChildProcess | null = null;
  #connection: NodeClient;

  constructor(folder: string, options: DaemonOptions) {
    this.folder = folder;
    this.#options = options;
    this.socketPath = join(folder, 'run/lodge.sock');
    this.configPath = join(folder, 'daemon.yaml');
    this.logPath = join(folder, 'daemon.log');
    this.#connection = connect({ socketPath: this.socketPath });
  }

  /** The SDK on its unix socket, as this user. */
  get client(): LodgeClient {
    return this.#connection.client;
  }

  get connection(): NodeClient {
    return this.#connection;
  }

  get pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error('the daemon of this test is not running');
    return pid;
  }

  /** What it has logged so far, over all its starts. */
  log(): Promise<string> {
    return readFile(this.logPath, 'utf8');
  }

  async writeConfig(): Promise<void> {
    const dataDir = join(this.folder, 'data');
    const runDir = join(this.folder, 'run');
    for (const folder of [dataDir, runDir]) await mkdir(folder, { recursive: true, mode: 0o711 });
    const config = {
      dataDir,
      runDir,
      logDir: join(this.folder, 'log'),
      socketPath: this.socketPath,
      socketGroup: null,
      listen: this.#options.listen ?? 'none',
      driver: this.#options.driver,
      instance: this.instance,
      ...this.#options.config,
    };
    // JSON is YAML.
    await writeFile(this.configPath, JSON.stringify(config, null, 2));
  }

  /** Starts it and waits until it answers that it is ready. */
  async start(): Promise<void> {
    if (this.#process !== null) throw new Error('the daemon of this test is already running');
    const argv = [process.execPath, ...nodeOptions, join(root, 'src/daemon/main.ts'), '--config', this.configPath];
    const [program, ...args] = this.#options.namespace?.command(argv) ?? (argv as [string, ...string[]]);
    const log = openSync(this.logPath, 'a');
    // Without this the daemon would take itself for a test file.
    const { NODE_TEST_CONTEXT: _context, ...env } = process.env;
    const child = spawn(program, args, {
      stdio: ['ignore', log, log],
      detached: true,
      env: { ...env, ...this.#options.env },
    });
    closeSync(log);
    this.#process = child;
    child.once('exit', () => {
      if (this.#process === child) this.#process = null;
    });
    const timeoutMs = this.#options.readyTimeoutMs ?? 90_000;
    const ended = new AbortController();
    child.once('error', (error) => ended.abort(error));
    child.once('exit', (code, signal) =>
      ended.abort(new Error(`the daemon ended with ${signal ?? `code ${code}`} before it was ready`)),
    );
    const isReady = async (): Promise<boolean> =>
      (await this.client.server.readyz({}, { timeoutMs: 2000 })).status === 'ok';
    try {
      await eventually(isReady, { timeoutMs, signal: ended.signal, describe: 'the daemon is ready' });
    } catch (error) {
      await this.kill();
      throw new Error(`${(error as Error).message}\n${await this.#logEnd()}`, { cause: error });
    }
  }

  /** Waits until the start is over: networks are up, and what is to start with the machine has been started. */
  async settled(): Promise<void> {
    const { pid } = this;
    const isSettled = async (): Promise<boolean> =>
      (await this.log())
        .split('\n')
        .some((line) => line.includes(`"pid":${pid},`) && line.includes('everything is as it should be'));
    await eventually(isSettled, { timeoutMs: 90_000, describe: 'the start of the daemon is over' });
  }

  /** Ends it as a power cut would: SIGKILL. Guests stay. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL', 30_000);
  }

  /** Asks it to end (SIGTERM) and answers with its exit code. Guests stay. */
  async stop(timeoutMs = 30_000): Promise<number | null> {
    return this.#end('SIGTERM', timeoutMs);
  }

  async restart(how: 'kill' | 'stop' = 'stop'): Promise<void> {
    await this[how]();
    await this.start();
  }

  /** Ends it and removes all that it has on the machine. */
  async destroy(): Promise<void> {
    this.#connection.close();
    try {
      await this.stop(10_000).catch(() => this.kill());
    } finally {
      await removeTraces(this.instance, this.folder);
    }
  }

  /** The last lines of its log, for a message. */
  async #logEnd(): Promise<string> {
    const text = await this.log().catch(() => '');
    return `--- the daemon's log ends with\n${text.trimEnd().split('\n').slice(-40).join('\n')}`;
  }

  async #end(signal: 'SIGKILL' | 'SIGTERM', timeoutMs: number): Promise<number | null> {
    const child = this.#process;
    if (child === null) return null;
    // Connections that were kept alive are dead now; the next call opens a new one.
    this.#connection.close();
    this.#connection = connect({ socketPath: this.socketPath });
    const exited = once(child, 'exit', { signal: AbortSignal.timeout(timeoutMs) });
    child.kill(signal);
    try {
      const [code] = (await exited) as [number | null];
      return code;
    } catch (error) {
      throw new Error(`the daemon did not end within ${timeoutMs} ms of ${signal}\n${await this.#logEnd()}`, {
        cause: error,
      });
    }
  }

  /** Shows the end of the log when the test failed. */
  async report(hasPassed: boolean): Promise<void> {
    if (!hasPassed) console.error(await this.#logEnd());
  }
}

/** Starts the daemon for a test, and ends it with the test. */
export async function startDaemon(test: Cleanup, options: DaemonOptions): Promise<TestDaemon> {
  const daemon = await prepareDaemon(test, options);
  await daemon.start();
  return daemon;
}

/** Like {@link startDaemon}, but leaves the start to the test. */
export async function prepareDaemon(test: Cleanup, options: DaemonOptions): Promise<TestDaemon> {
  const daemon = new TestDaemon(await temporaryFolder(test), options);
  atEnd(test, () => daemon.destroy());
  atEnd(test, () => daemon.report((test as { passed?: boolean }).passed ?? true));
  await daemon.writeConfig();
  return daemon;
}
