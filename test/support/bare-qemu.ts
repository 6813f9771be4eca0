// A QEMU process without Lodge around it, for tests of what talks to QEMU. It ends with the test.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder, type Cleanup } from './temporary.ts';
import { eventually } from './wait.ts';

export interface BareQemu {
  readonly child: ChildProcess;
  readonly folder: string;
  /** The socket of its monitor; it listens already. */
  readonly qmpPath: string;
  /** Ends it as the kernel would, and waits until it is gone. */
  kill(): Promise<void>;
}

/** Starts QEMU with a monitor and these arguments, in a folder of its own. `$folder` in them stands for that folder. */
export async function startBareQemu(test: Cleanup, args: readonly string[] = ['-M', 'none']): Promise<BareQemu> {
  const folder = await temporaryFolder(test);
  const qmpPath = join(folder, 'qmp.sock');
  const monitor = `unix:${qmpPath},server=on,wait=off`;
  const fixed = ['-nodefaults', '-no-user-config', '-display', 'none', '-qmp', monitor];
  const child = spawn('qemu-system-x86_64', fixed.concat(args.map((arg) => arg.replaceAll('$folder', folder))), {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => (words = (words + chunk.toString()).slice(-4000)));
  const exited = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  test.after(kill);
  await eventually(
    () => {
      if (child.exitCode !== null) throw new Error(`QEMU ended: ${words}`);
      return existsSync(qmpPath);
    },
    { describe: 'QEMU listens' },
  );
  return { child, folder, qmpPath, kill };
}
