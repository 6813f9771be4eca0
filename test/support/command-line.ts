// The command line as people and scripts use it: its real process, with a home of its own.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { type TestDaemon } from './daemon.ts';
import { temporaryFolder } from './temporary.ts';

const main = join(import.meta.dirname, '../../src/cli/main.ts');
const launcher = join(import.meta.dirname, '../../bin/lodge');

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

/** A command line with a home of its own, so that no configuration of the machine gets in. */
export class CommandLine {
  readonly home: string;
  readonly #environment: Record<string, string>;
  readonly #children = new Set<ChildProcess>();

  constructor(home: string, environment: Record<string, string>) {
    this.home = home;
    this.#environment = {
      PATH: process.env['PATH'] ?? '',
      HOME: home,
      // The command line keeps its cache in the real home of the user, which tests leave alone.
      NODE_COMPILE_CACHE: join(home, 'code'),
      ...environment,
    };
  }

  start(args: readonly string[], environment: Record<string, string> = {}): ChildProcess {
    const child = spawn(process.execPath, [main, ...args], {
      cwd: this.home,
      env: { ...this.#environment, ...environment },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    return this.#kept(child);
  }

  /** Ends what a test that failed has left running. */
  endAll(): void {
    for (const child of this.#children) child.kill('SIGKILL');
  }

  #kept(child: ChildProcess): ChildProcess {
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  async run(args: readonly string[], options: { input?: string; env?: Record<string, string> } = {}): Promise<Ended> {
    const child = this.start(args, options.env);
    child.stdin?.end(options.input ?? '');
    return ended(child);
  }

  /** Runs a command that must work, and gives what it printed. */
  async ok(...args: string[]): Promise<string> {
    const { code, out, err } = await this.run(args);
    assert.equal(code, 0, `lodge ${args.join(' ')}: ${err}`);
    return out;
  }

  /** Runs a command that must fail with this code, and gives what it complained. */
  async fails(code: number, ...args: string[]): Promise<string> {
    const result = await this.run(args);
    assert.equal(result.code, code, `lodge ${args.join(' ')}: ${result.out}${result.err}`);
    return result.err;
  }

  /** Runs a line of a shell with `lodge` in its path. */
  async shell(script: string): Promise<Ended> {
    const child = this.spawnShell(script);
    child.stdin?.end();
    return ended(child);
  }

  spawnShell(script: string): ChildProcess {
    const child = spawn('bash', ['--norc', '-c', script], {
      cwd: this.home,
      env: { ...this.#environment, PATH: `${join(launcher, '..')}:${this.#environment['PATH'] ?? ''}` },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    return this.#kept(child);
  }
}

/** Waits until a process has ended, and gives what it printed. */
export async function ended(child: ChildProcess): Promise<Ended> {
  let out = '';
  let err = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (out += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (err += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), 120_000);
  const [code] = (await once(child, 'close')) as [number | null];
  clearTimeout(timer);
  return { code, out, err };
}

/** A command line for a daemon; what it has started ends with the test. */
export async function commandLine(t: TestContext, daemon: TestDaemon): Promise<CommandLine> {
  const cli = new CommandLine(await temporaryFolder(t), { LODGE_SOCKET: daemon.socketPath });
  t.after(() => cli.endAll());
  return cli;
}
