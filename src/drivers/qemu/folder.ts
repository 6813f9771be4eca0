// The files of one VM. The folder itself belongs to root: what the launcher opens with root's rights lies there, so that
// a QEMU that was taken over can't put a link in its place. Its subfolder belongs to the VM's own user: QEMU works in it
// and makes its sockets there, under relative names, so it needs no way to the folder from above. Whatever is read from
// the subfolder is read as what an enemy may have put there: no link is followed, no pipe waited for.
import { chmod, chown, lstat, mkdir, open, readdir, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { SerialTimes } from './serial/times.ts';

export interface VmFolder {
  directory: string;
  /** Where QEMU works. */
  work: string;
  qmpSocket: string;
  /** A second monitor, over which descriptors are handed in; nobody stays connected to it. */
  descriptorSocket: string;
  serialSocket: string;
  agentSocket: string;
  vncSocket: string;
  serialLog: string;
  /** When the output came that is in the log. */
  serialTimes: string;
  screenshot: string;
  savedState: string;
  /** The saved memory while a guest is let go on from it: it may be used once only. */
  usedState: string;
  processLog: string;
  uefiVariables: string;
  /** With which keys the variable store was made. */
  uefiKeys: string;
  tpmSocket: string;
  /** Where the TPM's process works; it belongs to the VM's user. */
  tpmState: string;
  /** What that is encrypted with. */
  tpmKey: string;
  tpmLog: string;
  /** What the processes say that serve shared folders. */
  sharedFoldersLog: string;
}

/** Names of the files in the work folder, as QEMU is given them. */
export const workNames = {
  qmpSocket: 'qmp.sock',
  descriptorSocket: 'descriptors.sock',
  serialSocket: 'serial.sock',
  agentSocket: 'agent.sock',
  vncSocket: 'vnc.sock',
  tpmSocket: 'tpm.sock',
  serialLog: 'serial.log',
  screenshot: 'screenshot.ppm',
  savedState: 'memory.state',
  usedState: 'memory.used',
} as const;

const sharedFolderPrefix = 'shared-folder-';

/** Name of the socket in the work folder by which QEMU reaches what serves a shared folder. */
export function sharedFolderSocket(name: string): string {
  return `${sharedFolderPrefix}${name}.sock`;
}

export function vmFolder(directory: string): VmFolder {
  const work = join(directory, 'qemu');
  const inWork = (name: keyof typeof workNames): string => join(work, workNames[name]);
  return {
    directory,
    work,
    qmpSocket: inWork('qmpSocket'),
    descriptorSocket: inWork('descriptorSocket'),
    serialSocket: inWork('serialSocket'),
    agentSocket: inWork('agentSocket'),
    vncSocket: inWork('vncSocket'),
    serialLog: inWork('serialLog'),
    serialTimes: join(directory, 'serial.times'),
    screenshot: inWork('screenshot'),
    savedState: inWork('savedState'),
    usedState: inWork('usedState'),
    processLog: join(directory, 'qemu.log'),
    uefiVariables: join(directory, 'uefi-variables.fd'),
    uefiKeys: join(directory, 'uefi-variables.keys'),
    tpmSocket: inWork('tpmSocket'),
    tpmState: join(directory, 'tpm'),
    tpmKey: join(directory, 'tpm.key'),
    tpmLog: join(directory, 'tpm.log'),
    sharedFoldersLog: join(directory, 'shared-folders.log'),
  };
}

/** Makes both folders with their owners, and removes what an earlier run left. Only while no process of the user runs. */
export async function prepareFolder(folder: VmFolder, uid: number): Promise<void> {
  await mkdir(folder.directory, { recursive: true, mode: 0o711 });
  await mkdir(folder.work, { recursive: true, mode: 0o700 });
  await chown(folder.work, uid, uid);
  await chmod(folder.work, 0o700);
  await Promise.all([
    removeLeftovers(folder),
    prepareSerialLog(folder, uid),
    rm(folder.processLog, { force: true }),
    rm(folder.tpmLog, { force: true }),
    rm(folder.sharedFoldersLog, { force: true }),
  ]);
}

/** QEMU goes on with a log that is its own; anything else under the name would keep it from starting. */
async function prepareSerialLog({ serialLog, serialTimes }: VmFolder, uid: number): Promise<void> {
  const stat = await lstat(serialLog).catch(() => null);
  if (stat?.isFile() && stat.uid === uid && stat.nlink === 1) return;
  if (stat) await rm(serialLog, { force: true, recursive: true });
  await new SerialTimes(serialTimes).begin();
}

/** Removes what has no meaning without a process. Only while no process of the VM's user runs. */
export async function removeLeftovers(folder: VmFolder): Promise<void> {
  const { qmpSocket, descriptorSocket, serialSocket, agentSocket, vncSocket, tpmSocket, screenshot, usedState } =
    folder;
  const leftovers = [
    qmpSocket,
    descriptorSocket,
    serialSocket,
    agentSocket,
    vncSocket,
    tpmSocket,
    screenshot,
    usedState,
  ];
  // A socket, and beside it the file in which virtiofsd notes its process.
  for (const name of await readdir(folder.work).catch(() => []))
    if (name.startsWith(sharedFolderPrefix)) leftovers.push(join(folder.work, name));
  // Whatever stands under such a name goes, be it a folder that the VM's user put there.
  await Promise.all(leftovers.map((path) => rm(path, { force: true, recursive: true })));
}

/**
 * Opens a file that the VM's user may have made, for reading. Null: there is none. What is no plain file of its own is
 * refused: a link, a pipe, or another name of a file that belongs to somebody else.
 */
async function openUntrusted(path: string): Promise<Awaited<ReturnType<typeof open>> | null> {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return null;
    // ENXIO: a socket.
    if (code === 'ELOOP' || code === 'ENXIO') throw notPlain(path, error);
    throw error;
  }
  const stat = await file.stat();
  if (stat.isFile() && stat.nlink <= 1) return file;
  await file.close();
  throw notPlain(path);
}

function notPlain(path: string, cause?: unknown): LodgeError {
  return new LodgeError('hypervisor_failed', `${path} is not a plain file, and was not read.`, {
    hint: 'Only the VM’s own hypervisor process can have put it there: it may have been taken over from inside the guest.',
    cause,
  });
}

/** The last bytes of a file that a guest's process wrote. Missing: nothing. */
export async function readTail(path: string, maxBytes: number): Promise<Buffer> {
  const file = await openUntrusted(path);
  if (!file) return Buffer.alloc(0);
  try {
    const { size } = await file.stat();
    const length = Math.min(size, maxBytes);
    const buffer = Buffer.alloc(length);
    const { bytesRead } = await file.read(buffer, 0, length, size - length);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Makes sure that a file the guest's process wrote survives a power failure. */
export async function makeFileDurable(path: string): Promise<void> {
  const file = await openUntrusted(path);
  if (!file) throw new LodgeError('hypervisor_failed', `${path} is not there although QEMU wrote it.`);
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Whether a plain file is there. */
export async function hasFile(path: string): Promise<boolean> {
  return lstat(path).then(
    (stat) => stat.isFile(),
    () => false,
  );
}
