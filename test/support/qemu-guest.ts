// Guests of the QEMU driver without a daemon around it, for tests of the driver itself: definitions of `tiny`, and what is
// left of a guest on the machine, looked for with the test's own eyes.
import { randomInt, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { vmSpec, type VmSpecInput } from '../../src/api/vm-spec.ts';
import { plainHardware } from '../../src/drivers/driver.conformance.ts';
import { type Driver, type Guest, type GuestDefinition } from '../../src/drivers/driver.ts';
import { QemuDriver, type QemuDriverOptions } from '../../src/drivers/qemu/qemu-driver.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { removeTraces } from './leaks.ts';
import { markedName } from './mark.ts';
import { tinyImage } from './qemu.ts';
import { temporaryFolder } from './temporary.ts';
import { eventually } from './wait.ts';

/** A guest under TCG on a busy machine with two processors takes up to ten seconds to userspace. */
const bootMs = 90_000;

/** An installation of the driver alone: its name, its folder, and drivers on it. Everything goes with the test. */
export interface DriverHost {
  instance: string;
  folder: string;
  openDriver: (options?: Partial<QemuDriverOptions>) => QemuDriver;
}

export async function driverHost(test: Cleanup): Promise<DriverHost> {
  const instance = markedName();
  const folder = await temporaryFolder(test);
  atEnd(test, () => removeTraces(instance, folder));
  return {
    instance,
    folder,
    openDriver: (options = {}) => new QemuDriver({ instance, cacheDirectory: join(folder, 'probe'), ...options }),
  };
}

/** Users of guests of tests; Lodge's own range is elsewhere. */
const firstUid = 1_960_000_000;
let nextUid = firstUid + randomInt(50_000_000);

/** A definition of `tiny`, with an own id, folder and user. */
export async function defineTiny(
  { folder }: Pick<DriverHost, 'folder'>,
  spec: VmSpecInput = {},
  change: Partial<GuestDefinition> = {},
): Promise<GuestDefinition> {
  const { kernelPath, initramfsPath, manifest } = await tinyImage();
  const id = randomUUID();
  const parsed = vmSpec.parse({ memoryMib: 128, nics: [], ...spec });
  return {
    id,
    name: `vm-${id.slice(0, 8)}`,
    spec: parsed,
    hardware: plainHardware(parsed, { firmware: 'direct', ...change }),
    pinned: null,
    firmware: 'direct',
    kernel: { kernelPath, initramfsPath, commandLine: manifest.commandLine ?? '' },
    disks: [],
    nics: [],
    directory: join(folder, id),
    uid: nextUid++,
    ...change,
  };
}

/** Waits until `tiny` says on its console that it is up. */
export async function untilReady(driver: Driver, definition: Pick<GuestDefinition, 'id' | 'directory'>): Promise<void> {
  await eventually(
    async () => Buffer.from((await driver.serialLog(definition, 65_536)).bytes).includes('lodge: ready'),
    {
      timeoutMs: bootMs,
      describe: `the guest ${definition.id} is up`,
      intervalMs: 100,
    },
  );
}

/** Ends a guest's process as the kernel would. */
export async function killProcess(guest: Guest): Promise<void> {
  const { pid } = guest;
  if (pid === null) throw new Error('the guest has no process');
  process.kill(pid, 'SIGKILL');
  await eventually(() => !isRunning(pid), { describe: `process ${pid} is gone` });
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Processes, control groups and sockets of a guest. */
export async function tracesOf(
  instance: string,
  definition: Pick<GuestDefinition, 'id' | 'directory'>,
): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const environ = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '');
    if (environ.split('\0').includes(`LODGE_VM=${instance}/${definition.id}`)) found.push(`process ${pid}`);
  }
  found.push(...(await groupsOf(definition.id)).map((path) => `cgroup ${path}`));
  for (const entry of await readdir(join(definition.directory, 'qemu'), { withFileTypes: true }).catch(() => []))
    if (entry.isSocket()) found.push(`socket ${entry.name}`);
  return found;
}

/** The folders of a guest's control group, one a hierarchy. */
export async function groupsOf(id: string): Promise<string[]> {
  const found: string[] = [];
  const search = async (folder: string, depth: number): Promise<void> => {
    for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
      // Linked hierarchies (cpu -> cpu,cpuacct) are no directories here, so every group is met once.
      if (!entry.isDirectory()) continue;
      const path = join(folder, entry.name);
      if (entry.name === id) found.push(path);
      else if (depth < 6) await search(path, depth + 1);
    }
  };
  if (existsSync('/sys/fs/cgroup')) await search('/sys/fs/cgroup', 0);
  return found;
}
