// A QEMU process without Lodge around it, for tests of what talks to QEMU. It ends with the test.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { atEnd, type Cleanup } from './cleanup.ts';
import { temporaryFolder } from './temporary.ts';
import { eventually } from './wait.ts';

const QEMU = 'qemu-system-x86_64';

export interface BareQemu {
  readonly child: ChildProcess;
  readonly folder: string;
  /** The socket of its monitor; it listens already. */
  readonly qmpPath: string;
  /** Ends it as the kernel would, and waits until it is gone. */
  kill(): Promise<void>;
}

type Arguments = readonly string[];

/** Starts QEMU with a monitor and these arguments, which may be made when its folder is known. */
export async function startBareQemu(
  test: Cleanup,
  args: Arguments | ((folder: string) => Arguments | Promise<Arguments>) = ['-M', 'none'],
): Promise<BareQemu> {
  const folder = await temporaryFolder(test);
  const qmpPath = join(folder, 'qmp.sock');
  const monitor = `unix:${qmpPath},server=on,wait=off`;
  const fixed = ['-nodefaults', '-no-user-config', '-display', 'none', '-qmp', monitor];
  const child = spawn(QEMU, fixed.concat(typeof args === 'function' ? await args(folder) : args), {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => (words = (words + chunk.toString()).slice(-4000)));
  const exited = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  atEnd(test, kill);
  await eventually(
    () => {
      if (child.exitCode !== null) throw new Error(`QEMU ended: ${words}`);
      return greets(qmpPath);
    },
    { describe: 'QEMU greets' },
  );
  return { child, folder, qmpPath, kill };
}

/** Whether the monitor greets, which it does when the whole machine has been made. */
function greets(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path });
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', reject);
    socket.once('close', () => resolve(false));
  });
}
