// The daemon of this machine, as `npm start` and `npm stop` see it: whether it runs, starting it so that it outlives the
// terminal, and ending it. Guests are none of its business: they run on whatever happens to the daemon.
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, readlink, stat } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type NodeClient } from '../src/client/node-transport.ts';
import { configPath, loadConfig } from '../src/daemon/config.ts';
import { nodeOptions } from '../src/daemon/node-options.ts';
import { run } from '../src/host/command.ts';
import { findProcesses, terminateProcess, type ProcessIdentity } from '../src/host/process.ts';

const root = dirname(import.meta.dirname);
const entry = join(root, 'src/daemon/main.ts');

/** How long the daemon may take from its start until it is ready, in milliseconds: it adopts guests and probes the processor. */
const READY_TIMEOUT_MS = 60_000;
/** How long it may take to end, in milliseconds: it lets running requests finish. */
const STOP_TIMEOUT_MS = 60_000;

/** Which daemon: the machine's own, or one with a configuration file of its own. */
export interface DaemonPlace {
  configPath: string | null;
  socketPath: string;
  /** The group whose members may use the socket; null: only root. */
  socketGroup: string | null;
  logPath: string;
}

/** The folder in which the command was typed: npm runs its scripts in the clone. */
export const typedIn = process.env['INIT_CWD'] ?? process.cwd();

/** Reads where the daemon with this configuration file, or with the machine's own, listens and logs. */
export async function daemonPlace(option: string | undefined): Promise<DaemonPlace> {
  const { path, isRequired } = configPath(option, process.env);
  // The daemon itself runs in /.
  const named = isRequired ? resolve(typedIn, path) : null;
  const { socketPath, socketGroup, logDir } = await loadConfig(named ?? undefined, process.env);
  return { configPath: named, socketPath, socketGroup, logPath: join(logDir, 'daemon.log') };
}

/** Whether something listens at the daemon's socket. */
export function isListening(place: DaemonPlace): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connectSocket(place.socketPath);
  socket.once('connect', () => resolve(true));
  socket.once('error', () => resolve(false));
  return promise.finally(() => socket.destroy());
}

/** Connects to the daemon, over its unix socket. */
export function connectTo(place: DaemonPlace): NodeClient {
  return connect({ socketPath: place.socketPath });
}

/** How the daemon was started. */
export type StartedBy = 'systemd' | 'process';

/**
 * Starts the daemon and waits until it is ready: by systemd where its unit is installed there, else as a process in a
 * session of its own. Throws with the end of its log when it ends or is not ready in time.
 */
export async function startDaemon(place: DaemonPlace, onProgress: (message: string) => void): Promise<StartedBy> {
  if (place.configPath === null && (await hasUnit())) {
    onProgress('systemctl start lodge');
    await run(['systemctl', 'start', 'lodge.service'], { timeoutMs: READY_TIMEOUT_MS });
    await waitUntilReady(place, () => null, onProgress);
    return 'systemd';
  }
  await mkdir(dirname(place.logPath), { recursive: true, mode: 0o750 });
  const logBegin = await stat(place.logPath).then(
    ({ size }) => size,
    () => 0,
  );
  const log = openSync(place.logPath, 'a', 0o640);
  const args = [...nodeOptions, entry, ...(place.configPath === null ? [] : ['--config', place.configPath])];
  const child = spawn(process.execPath, args, {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log, log],
    env: daemonEnvironment(process.env),
  });
  closeSync(log);
  let ended: string | null = null;
  child.once('error', (error) => (ended = error.message));
  child.once('exit', (code, signal) => (ended = `it ended with ${signal ?? `code ${code}`}`));
  child.unref();
  try {
    await waitUntilReady(place, () => ended, onProgress);
  } catch (error) {
    const words = (await readFile(place.logPath, 'utf8').catch(() => '')).slice(logBegin).trim();
    const end = words.split('\n').slice(-15).join('\n');
    throw new Error(`${(error as Error).message}\n${end}\n(all of it in ${place.logPath})`, { cause: error });
  }
  return 'process';
}

/** What the daemon inherits: not npm's variables, nor those of whoever typed the command. */
function daemonEnvironment(given: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = ['PATH', 'TZ', 'http_proxy', 'https_proxy', 'no_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'];
  const entries = kept.map((name) => [name, given[name]] as const).filter(([, value]) => value !== undefined);
  // With what Node compiled kept, the daemon starts in half the time.
  const own = { HOME: '/root', LANG: 'C.UTF-8', NODE_COMPILE_CACHE: '/var/cache/lodge/compiled' };
  return { ...own, ...Object.fromEntries(entries) };
}

async function hasUnit(): Promise<boolean> {
  const isSystemd = (await stat('/run/systemd/system').catch(() => null)) !== null;
  if (!isSystemd) return false;
  const { exitCode } = await run(['systemctl', 'cat', 'lodge.service'], { okExitCodes: [0, 1] });
  return exitCode === 0;
}

async function waitUntilReady(
  place: DaemonPlace,
  ended: () => string | null,
  onProgress: (message: string) => void,
): Promise<void> {
  const connection = connectTo(place);
  const deadline = performance.now() + READY_TIMEOUT_MS;
  let last = 'nothing listens at its socket yet';
  try {
    while (performance.now() < deadline) {
      const end = ended();
      if (end !== null) throw new Error(`The daemon did not start: ${end}.`);
      if (await isListening(place)) {
        try {
          const { status, problems } = await connection.client.server.readyz({}, { timeoutMs: 2000 });
          if (status === 'ok') return;
          last = problems.join('; ') || status;
        } catch (error) {
          last = (error as Error).message;
        }
        onProgress(last);
      }
      await delay(100);
    }
  } finally {
    connection.close();
  }
  throw new Error(`The daemon was not ready within ${READY_TIMEOUT_MS / 1000} s: ${last}.`);
}

/** The processes of this daemon, whichever clone they were started from. */
async function findDaemon(place: DaemonPlace): Promise<ProcessIdentity[]> {
  const isIt = (argv: readonly string[]): boolean => {
    // The program is the first word behind node that is no option of node's own.
    const program = argv.slice(1).find((word) => !word.startsWith('-'));
    if (program?.endsWith('/src/daemon/main.ts') !== true) return false;
    const config = argv[argv.indexOf('--config') + 1];
    return place.configPath === null ? !argv.includes('--config') : config === place.configPath;
  };
  const own = await fileSystemOf('self');
  const found: ProcessIdentity[] = [];
  for (const { identity } of await findProcesses({ matchesArguments: isIt })) {
    // The daemon of a container is seen from outside as well, but is not this machine's.
    if ((await fileSystemOf(identity.pid)) === own) found.push(identity);
  }
  return found;
}

/** The mount namespace and root folder of a process: with another of either, its /run/lodge is another one. */
async function fileSystemOf(pid: number | 'self'): Promise<string> {
  const links = [`/proc/${pid}/ns/mnt`, `/proc/${pid}/root`];
  return (await Promise.all(links.map((path) => readlink(path).catch(() => '')))).join(' ');
}

/** Ends the daemon; answers whether there was one. */
export async function stopDaemon(place: DaemonPlace): Promise<boolean> {
  if (place.configPath === null && (await hasUnit())) {
    const { exitCode } = await run(['systemctl', 'is-active', '--quiet', 'lodge.service'], { okExitCodes: [0, 3, 4] });
    if (exitCode === 0) {
      await run(['systemctl', 'stop', 'lodge.service'], { timeoutMs: STOP_TIMEOUT_MS + 30_000 });
      return true;
    }
  }
  const found = await findDaemon(place);
  await Promise.all(found.map((identity) => terminateProcess(identity, { termTimeoutMs: STOP_TIMEOUT_MS })));
  return found.length > 0;
}
