// Folders that a guest shares with its node. 9p is served by QEMU itself, in a folder that it is given as a descriptor.
// For virtio-fs a virtiofsd runs beside QEMU, one for each folder: in the same group, as the same user, in a session of its
// own, with the folder mounted where only it sees it. It outlives the daemon and ends with the connection of its QEMU; a
// later daemon finds it by the mark in its environment.
//
// Promises: whoever serves a folder has no rights but those of the VM's user, to whom the folder's owner's files belong in
// that mount and nowhere else (LaunchFolder); what is read-only is so by its mount.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { launchConfined, LaunchError, type LaunchFolder } from '../../host/launch/launch.ts';
import { findProcesses, identifyProcess, isAlive, terminateProcess, type ProcessIdentity } from '../../host/process.ts';
import { type GuestDefinition, type GuestSharedFolder } from '../driver.ts';
import { type ArgumentTools } from './device-arguments.ts';
import { hasFile, readTail, sharedFolderSocket, type VmFolder } from './folder.ts';
import { sharedFolderId } from './slots.ts';

/** Environment variable that marks a process that serves a VM's folder: `instance/id`. */
const markVariable = 'LODGE_VM_SHARED_FOLDER';
const listenMs = 10_000;
const pollMs = 5;
/** Where virtiofsd has the folder, in a mount namespace of its own; every Linux has this one. */
const mountPoint = '/mnt';
/** virtiofsd's own choice: it holds a descriptor for each file that the guest knows. */
const mostOpenFiles = 1_000_000;
/** Requests that a guest may have under way: the largest queue of virtio-fs in QEMU. */
const queueSize = 1024;

/** The processes that serve a folder by virtio-fs. */
export interface SharedFolderServer {
  name: string;
  processes: readonly ProcessIdentity[];
}

export interface SharedFolderLaunch {
  /** `instance/id`. */
  mark: string;
  program: string;
  cgroupProcsFiles: readonly string[];
  oomScoreAdjust: number;
}

function ofVirtiofs({ sharedFolders = [] }: Pick<GuestDefinition, 'sharedFolders'>): GuestSharedFolder[] {
  return sharedFolders.filter(({ model }) => model === 'virtiofs');
}

/** Whether another process than QEMU must see the guest's memory. */
export function needsSharedMemory(definition: Pick<GuestDefinition, 'sharedFolders'>): boolean {
  return ofVirtiofs(definition).length > 0;
}

/** Whether a guest was started with memory that another process can see. */
export function hasSharedMemory(qemuArguments: readonly string[]): boolean {
  return qemuArguments.some((argument) =>
    /^memory-backend-memfd,|^\{"qom-type":"memory-backend-memfd".*"share":true/.test(argument),
  );
}

/** Gives the guest its devices for shared folders, and QEMU the folders that it serves itself. */
export function addSharedFolders(
  { sharedFolders = [], spec: { machine } }: GuestDefinition,
  passFolder: (path: string, access: LaunchFolder['access']) => number,
  { add, places, virtio }: Pick<ArgumentTools, 'add' | 'places' | 'virtio'>,
): void {
  for (const { name, model, path, isReadOnly } of sharedFolders) {
    const id = sharedFolderId(name);
    const place = places.sharedFolder(id);
    if (model === 'virtiofs') {
      add('-chardev', `socket,id=${id}-socket,path=${sharedFolderSocket(name)}`);
      const device = `vhost-user-fs-${machine === 'microvm' ? 'device' : 'pci'}`;
      add('-device', `${device},id=${id},chardev=${id}-socket,tag=${name},queue-size=${queueSize}${place}`);
      continue;
    }
    const fd = passFolder(path, isReadOnly ? 'ro' : 'rw');
    // Owners and modes that the guest sets are kept in extended attributes: on the node all it makes is a plain file of
    // the folder's owner that nobody else reads, no program that runs with somebody's rights.
    const security = 'security_model=mapped-xattr,multidevs=remap';
    add('-fsdev', `local,id=${id}-files,path=/proc/self/fd/${fd},${security}${isReadOnly ? ',readonly=on' : ''}`);
    add('-device', `${virtio('9p')},id=${id},fsdev=${id}-files,mount_tag=${name}${place}`);
  }
}

/** Starts what serves the folders on virtio-fs; it waits for QEMU. Whatever is left of earlier processes is ended first. */
export async function startSharedFolders(
  folder: VmFolder,
  definition: Pick<GuestDefinition, 'name' | 'uid' | 'sharedFolders'>,
  launch: SharedFolderLaunch,
): Promise<SharedFolderServer[]> {
  const wanted = ofVirtiofs(definition);
  if (wanted.length === 0) return [];
  await endSharedFolders(launch.mark);
  try {
    return await Promise.all(wanted.map((one) => startServer(folder, definition, one, launch)));
  } catch (error) {
    await endSharedFolders(launch.mark);
    throw error;
  }
}

async function startServer(
  folder: VmFolder,
  { name: vm, uid }: Pick<GuestDefinition, 'name' | 'uid'>,
  { name, path, isReadOnly }: GuestSharedFolder,
  { mark, program, cgroupProcsFiles, oomScoreAdjust }: SharedFolderLaunch,
): Promise<SharedFolderServer> {
  const socket = sharedFolderSocket(name);
  // It can be nobody but the VM's user: to that one all belongs that the guest makes, whoever in it makes it. In the guest
  // what belongs to that user is root's.
  const asOne = [`squash-guest:0:${uid}:4294967295`, `squash-host:${uid}:0:1`];
  const launched = await launchConfined({
    argv: [
      program,
      ...['--socket-path', socket, '--shared-dir', mountPoint, '--sandbox', 'namespace'],
      ...asOne.flatMap((map) => ['--translate-uid', map, '--translate-gid', map]),
      ...['--rlimit-nofile', '0', '--log-level', 'warn'],
      ...(isReadOnly ? ['--readonly'] : []),
    ],
    uid,
    gid: uid,
    cgroupProcsFiles,
    oomScoreAdjust,
    limits: { core: 0, nofile: Math.min(mostOpenFiles, ownOpenFiles()) },
    folders: [{ path, access: isReadOnly ? 'ro' : 'rw', at: mountPoint }],
    stdoutPath: folder.sharedFoldersLog,
    stderrPath: folder.sharedFoldersLog,
    cwd: folder.work,
    env: { [markVariable]: mark },
  }).catch((error: unknown) => {
    throw sharedFolderFailure(vm, error) ?? error;
  });
  const identity = identifyProcess(launched.pid);
  const deadline = performance.now() + listenMs;
  while (!existsSync(join(folder.work, socket))) {
    if (identity && isAlive(identity) && performance.now() < deadline) {
      await delay(pollMs);
      continue;
    }
    const said = (await readTail(folder.sharedFoldersLog, 500)).toString('utf8').trim();
    throw new LodgeError(
      'hypervisor_failed',
      `virtiofsd, which serves shared folder ${name} of VM ${vm}, did not start${said ? `: ${said}` : '.'}`,
      {
        hint: 'It needs user namespaces for ordinary users (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone). Or set the folder’s driver to 9p.',
      },
    );
  }
  return { name, processes: identity ? [identity] : [] };
}

/** What is to be said of a folder that could not be opened; null: something else has failed. */
export function sharedFolderFailure(vm: string, error: unknown): LodgeError | null {
  if (!(error instanceof LaunchError) || error.step !== 'folder') return null;
  return new LodgeError('host_failed', `${error.message}, for VM ${vm}.`, {
    hint: 'Share a folder on ext4, XFS, Btrfs or tmpfs of a current kernel, which is there and belongs to an ordinary user.',
    cause: error,
  });
}

/** What serves the folders of a guest that runs, by virtio-fs. */
export async function findSharedFolders(mark: string, qemuArguments: readonly string[]): Promise<SharedFolderServer[]> {
  const names = qemuArguments.flatMap((argument) => /^vhost-user-fs-.*,tag=([^,]+)/.exec(argument)?.[1] ?? []);
  if (names.length === 0) return [];
  const found = (await findProcesses({ environmentVariable: markVariable })).filter((one) => one.mark === mark);
  return names.map((name) => ({
    name,
    processes: found.filter(({ argv }) => argv.includes(sharedFolderSocket(name))).map(({ identity }) => identity),
  }));
}

/** Whether what serves a folder has ended. */
export function hasEnded({ processes }: SharedFolderServer): boolean {
  return processes.length === 0 || !processes.every((one) => isAlive(one));
}

/** Nobody without CAP_SYS_RESOURCE can give a child a higher limit than its own. */
function ownOpenFiles(): number {
  const hard = /^Max open files +\S+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return hard === undefined ? mostOpenFiles : Number(hard);
}

/** Ends what serves a VM's folders. Nothing is lost: what the guest has written went to the files at once. */
export async function endSharedFolders(mark: string): Promise<void> {
  const found = await findProcesses({ environmentVariable: markVariable });
  for (const process of found)
    if (process.mark === mark) await terminateProcess(process.identity, { termTimeoutMs: 0 });
}

/** Whether a VM has, or had, processes that serve its folders: then they are looked for. */
export function mayHaveSharedFolders(folder: VmFolder): Promise<boolean> {
  return hasFile(folder.sharedFoldersLog);
}
