// What firmware and TPM remember, copied between VMs, and to and from where a snapshot or template keeps it: the UEFI
// variable store with the note of its keys, and the TPM's state with the key that it is encrypted with.
//
// Promises: a copy is whole. Of a store that the guest's firmware is writing at the moment, it is what lay there at one
// moment; swtpm replaces its state as a whole. What is copied to a VM can be read and written by that VM only.
import { chown, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { type FirmwareCopy } from '../driver.ts';
import { hasFile, readTail, vmFolder, type VmFolder } from './folder.ts';
import { tpmStateFile } from './tpm.ts';

/** A state is some 10 KiB; a guest's process that was taken over is not to fill the daemon's memory. */
const maxStateBytes = 4 * 2 ** 20;
/** A store is read until it was the same twice; a firmware writes for milliseconds. */
const mostReads = 200;
const readAgainMs = 10;

export async function copyFirmware({ from, to, uid, hasTpm, isDurable }: FirmwareCopy): Promise<void> {
  const [source, target] = [vmFolder(from), vmFolder(to)];
  await mkdir(target.directory, { recursive: true, mode: uid === null ? 0o700 : 0o711 });
  const write = (path: string, content: Buffer): Promise<void> => writeWhole(path, content, isDurable);
  const hasStore = await copyStore(source, target, write);
  const hasState = await copyTpm(source, target, { uid, hasTpm, write });
  if (isDurable && (hasStore || hasState)) await makeDurable(target.directory);
}

type Write = (path: string, content: Buffer) => Promise<void>;

async function writeWhole(path: string, content: Buffer, isDurable: boolean): Promise<void> {
  const making = `${path}.copy`;
  const file = await open(making, 'w', 0o600);
  try {
    await file.writeFile(content);
    if (isDurable) await file.sync();
  } finally {
    await file.close();
  }
  await rename(making, path);
}

async function copyStore(source: VmFolder, target: VmFolder, write: Write): Promise<boolean> {
  const store = (await hasFile(source.uefiVariables)) ? await readStable(source.uefiVariables) : null;
  // Without a store nobody reads the note of its keys, so that goes first and comes first.
  await rm(target.uefiVariables, { force: true });
  await rm(target.uefiKeys, { force: true });
  if (store === null) return false;
  if (await hasFile(source.uefiKeys)) await write(target.uefiKeys, await readFile(source.uefiKeys));
  await write(target.uefiVariables, store);
  return true;
}

/** The content of a file that may be written at this moment: what two reads one after the other agree on. */
async function readStable(path: string): Promise<Buffer> {
  let last = await readFile(path);
  for (let reads = 0; reads < mostReads; reads++) {
    const next = await readFile(path);
    if (next.equals(last)) return next;
    last = next;
    await delay(readAgainMs);
  }
  throw new LodgeError('host_failed', `The UEFI variable store ${path} is being written all the time.`, {
    hint: 'Try again when the guest has booted.',
  });
}

async function copyTpm(
  source: VmFolder,
  target: VmFolder,
  { uid, hasTpm, write }: { uid: number | null; hasTpm: boolean; write: Write },
): Promise<boolean> {
  const keys = [
    [source.tpmKey, target.tpmKey],
    [`${source.tpmKey}.new`, `${target.tpmKey}.new`],
  ] as const;
  const path = join(source.tpmState, tpmStateFile);
  const state = hasTpm && (await hasFile(path)) ? await readState(path) : null;
  for (const [, key] of keys) await rm(key, { force: true });
  // It belongs to the VM's user, who may have put anything there.
  await rm(target.tpmState, { recursive: true, force: true });
  if (!hasTpm) return false;
  if (state !== null) {
    const making = `${target.tpmState}.new`;
    await rm(making, { recursive: true, force: true });
    await mkdir(making, { mode: 0o700 });
    const file = join(making, tpmStateFile);
    await write(file, state);
    if (uid !== null) await Promise.all([chown(file, uid, uid), chown(making, uid, uid)]);
    await rename(making, target.tpmState);
  }
  // Last: a key is believed to have its state.
  for (const [key, copy] of keys) if (await hasFile(key)) await write(copy, await readFile(key));
  return state !== null;
}

async function readState(path: string): Promise<Buffer> {
  const state = await readTail(path, maxStateBytes + 1);
  if (state.length <= maxStateBytes) return state;
  throw new LodgeError('host_failed', `The state of the TPM in ${path} is larger than any: it is not copied.`);
}
