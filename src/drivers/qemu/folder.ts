// The files of one VM. The folder itself belongs to root: what the launcher opens with root's rights lies there, so that
// a QEMU that was taken over can't put a link in its place. Its subfolder belongs to the VM's own user: QEMU works in it
// and makes its sockets there, under relative names, so it needs no way to the folder from above.
import { chmod, chown, lstat, mkdir, open, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';

export interface VmFolder {
  directory: string;
  /** Where QEMU works. */
  work: string;
  qmpSocket: string;
  serialSocket: string;
  agentSocket: string;
  vncSocket: string;
  serialLog: string;
  screenshot: string;
  savedState: string;
  processLog: string;
  uefiVariables: string;
}

/** Names of the files in the work folder, as QEMU is given them. */
export const workNames = {
  qmpSocket: 'qmp.sock',
  serialSocket: 'serial.sock',
  agentSocket: 'agent.sock',
  vncSocket: 'vnc.sock',
  serialLog: 'serial.log',
  screenshot: 'screenshot.png',
  savedState: 'memory.state',
} as const;

export function vmFolder(directory: string): VmFolder {
  const work = join(directory, 'qemu');
  const inWork = (name: keyof typeof workNames): string => join(work, workNames[name]);
  return {
    directory,
    work,
    qmpSocket: inWork('qmpSocket'),
    serialSocket: inWork('serialSocket'),
    agentSocket: inWork('agentSocket'),
    vncSocket: inWork('vncSocket'),
    serialLog: inWork('serialLog'),
    screenshot: inWork('screenshot'),
    savedState: inWork('savedState'),
    processLog: join(directory, 'qemu.log'),
    uefiVariables: join(directory, 'uefi-variables.fd'),
  };
}

/** Makes both folders with their owners, and removes the sockets of an earlier run. */
export async function prepareFolder(folder: VmFolder, uid: number): Promise<void> {
  await mkdir(folder.directory, { recursive: true, mode: 0o711 });
  await mkdir(folder.work, { recursive: true, mode: 0o700 });
  await chown(folder.work, uid, uid);
  await chmod(folder.work, 0o700);
  await removeSockets(folder);
}

export async function removeSockets(folder: VmFolder): Promise<void> {
  const sockets = [folder.qmpSocket, folder.serialSocket, folder.agentSocket, folder.vncSocket, folder.screenshot];
  await Promise.all(sockets.map((path) => rm(path, { force: true })));
}

/** The last bytes of a file that a guest's process wrote. A link in its place is not followed. Missing: nothing. */
export async function readTail(path: string, maxBytes: number): Promise<Buffer> {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (['ENOENT', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return Buffer.alloc(0);
    throw error;
  }
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

/** Whether a plain file is there. */
export async function hasFile(path: string): Promise<boolean> {
  return lstat(path).then(
    (stat) => stat.isFile(),
    () => false,
  );
}
